// Package agent is the one loop: it turns events into the machine's actions
// and the plan's wishes, and hands them to the sinks that carry them out.
package agent

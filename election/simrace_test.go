//go:build race

package election

// defaultRuns under the race detector, which is ten times as slow. The machine
// has no goroutine: this is for the worlds that run beside each other.
const defaultRuns = 300

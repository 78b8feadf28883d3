//go:build !race

package election

// defaultRuns of TestSoak, in at most a minute on two cores.
const defaultRuns = 5000

package scenarios

import (
	"os"
	"testing"

	"mooring.dev/mooring/e2e/lab"
)

func TestMain(m *testing.M) {
	if lab.Serves() {
		os.Exit(1)
	}
	os.Exit(m.Run())
}

package haproxy

import (
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// listen opens a plain listener, without SO_REUSEPORT.
func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestParseListeners(t *testing.T) {
	if !littleEndian() {
		t.Skip("the sample is of a little-endian machine")
	}
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0A0200C0:1D13 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 0A0200C0:1D13 0B0200C0:8000 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0
   2: B80D0120000000000000000010000000:1D14 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 4713 1 0
   3: 00000000000000000000000000000000:192B 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 4714 1 0
   4: nonsense:zz 0 0A 0 0 0 0 0 0 1
   5: 0A02:1D13 0 0A 0 0 0 0 0 0 1
`
	var got []string
	for _, l := range parseListeners(table) {
		got = append(got, l.addr.String()+" "+l.inode)
	}
	want := []string{"192.0.2.10:7443 4711", "[2001:db8::10]:7444 4713", "[::]:6443 4714"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

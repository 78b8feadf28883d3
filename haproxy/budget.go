package haproxy

import "fmt"

// minConn is the least that is worth starting with: a small cluster's kubelets
// and controllers hold some dozens of connections.
const minConn = 64

// FitMaxConn lowers the wanted number of connections to what a process with
// nofile file descriptors (RLIMIT_NOFILE, hard) can hold. HAProxy takes two
// per connection, one per listener and health check, some per thread and some
// 40 of its own; above the limit it exits with "Cannot raise FD limit", which
// `haproxy -c` does not find. The number of servers is reserved as a whole
// (MaxBackends), so that adding one never changes maxconn.
func FitMaxConn(c Config, nofile uint64) (int, error) {
	c = c.normal()
	reserve := uint64(64 + MaxBackends + 8*c.Threads + 2*len(c.binds()))
	need := reserve + 2*minConn
	if nofile < need {
		return 0, fmt.Errorf("haproxy: the limit of open files is %d, at least %d are needed: "+
			"raise LimitNOFILE (systemd) or the container's ulimit nofile", nofile, need)
	}
	return int(min(uint64(c.MaxConn), (nofile-reserve)/2)), nil
}

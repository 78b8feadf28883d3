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
// (MaxBackends), so that adding one never changes maxconn. Of Services only
// servers with a health check count, in steps.
func FitMaxConn(c Config, nofile uint64) (int, error) {
	if !c.service {
		c = c.normal()
	}
	reserve := uint64(64 + checkBudget(c) + 8*c.Threads + 2*len(c.binds()) + 4*len(c.Peers))
	need := reserve + 2*minConn
	if nofile < need {
		return 0, fmt.Errorf("haproxy: the limit of open files is %d, at least %d are needed: "+
			"raise LimitNOFILE (systemd) or the container's ulimit nofile", nofile, need)
	}
	return int(min(uint64(c.MaxConn), (nofile-reserve)/2)), nil
}

// checkBudget is the number of file descriptors reserved for health checks: for
// Services the least of MaxBackends and its doubles that is enough, because
// maxconn follows from it and another maxconn is a reload.
func checkBudget(c Config) int {
	checked := 0
	for _, f := range c.Frontends {
		if f.Front != nil && f.Front.Check.Kind != "" {
			checked += len(f.Backends)
		}
	}
	budget := MaxBackends
	for budget < checked {
		budget *= 2
	}
	return budget
}

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// keepalived is one VRRPv3 group over all nodes.
type keepalived struct {
	name, vip, advert string
	router            int
	procs             map[string]*lab.Process
}

// start writes the configuration and runs VRRP alone on the node.
func (k *keepalived) start(b *bench, n *lab.Node, priority int) {
	dir := filepath.Join(n.Dir(), fmt.Sprintf("keepalived-%d", k.router))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.Fatalf("keepalived: %v", err)
	}
	conf := fmt.Sprintf(`global_defs {
  vrrp_version 3
}
vrrp_instance vip {
  state BACKUP
  interface eth0
  virtual_router_id %d
  priority %d
  advert_int %s
  virtual_ipaddress {
    %s/32 dev eth0
  }
}
`, k.router, priority, k.advert, k.vip)
	file := filepath.Join(dir, "keepalived.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		b.Fatalf("keepalived: %v", err)
	}
	k.procs[n.Name()] = n.Spawn(fmt.Sprintf("keepalived-%d", k.router), "keepalived", "-P", "-n", "-l", "-f", file,
		"-p", filepath.Join(dir, "pid"), "-r", filepath.Join(dir, "vrrp.pid"))
}

// load sends requests from sixteen workers for a time and returns those
// answered with 200 per second.
func load(h *lab.Host, url string, keep bool, d time.Duration) float64 {
	c := h.HTTP(2 * time.Second)
	if t, ok := c.Transport.(*http.Transport); ok {
		t.DisableKeepAlives = !keep
		t.MaxIdleConnsPerHost = 16
	}
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	var good atomic.Int64
	var workers sync.WaitGroup
	for range 16 {
		workers.Go(func() {
			for ctx.Err() == nil {
				if get(ctx, c, url) {
					good.Add(1)
				}
			}
		})
	}
	workers.Wait()
	c.CloseIdleConnections()
	return float64(good.Load()) / d.Seconds()
}

// get counts an answer only when its whole body came.
func get(ctx context.Context, c *http.Client, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := c.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK
}

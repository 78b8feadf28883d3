package scenarios

import (
	"context"
	"fmt"
	"testing"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mooring.dev/mooring/e2e/lab"
)

// TestOwnAPIServerDown: the holder's own API server is away for a minute.
func TestOwnAPIServerDown(t *testing.T) {
	t.Parallel()
	w := boot(t)
	holder := w.Holder(vip)
	term := w.status(holder).Term
	seen := w.look()
	requests := w.Client().Requests(readyz, 100*time.Millisecond)
	holder.APIServer().Kill()
	w.stays(holder, 60*time.Second, "own API server down")
	if s := w.status(holder); !s.Confirmed || s.Term != term {
		t.Errorf("the holder is not confirmed through the other API servers: %+v", s)
	}
	holder.APIServer().Start()
	w.AwaitReady(holder)
	w.stays(holder, 3*time.Second, "own API server back")
	r := requests.Stop()
	t.Log(r)
	if r.Failed > 2 {
		t.Errorf("%d requests failed: %s", r.Failed, r)
	}
	seen.end(0, 0)
}

// TestAllAPIServersDown: without any API server the VIP stays where it was, also
// when the holder's agent restarts meanwhile, and serves as soon as one is back.
func TestAllAPIServersDown(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		how     lab.Outage
		restart bool
	}{{"hung", lab.Hung, false}, {"killed, agent restarted", lab.Killed, true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := boot(t)
			holder := w.Holder(vip)
			term := w.status(holder).Term
			seen := w.look()
			w.StopAPI(c.how)
			if c.restart {
				w.stays(holder, 8*time.Second, "API servers "+c.name)
				w.agent(holder).Kill()
				time.Sleep(time.Second)
				w.startAgent(holder)
			}
			w.stays(holder, 20*time.Second, "API servers "+c.name)
			if s := w.status(holder); s.State != "Holding" || s.Confirmed {
				t.Errorf("mooring status during the outage: %+v", s)
			}
			probe := w.Client().Requests(readyz, 50*time.Millisecond)
			w.StartAPI()
			w.Eventually(5*time.Second, "the VIP serves again", func() bool {
				r, err := w.Client().HTTP(time.Second).Get(readyz)
				if err != nil {
					return false
				}
				defer r.Body.Close()
				return r.StatusCode == 200
			})
			probe.Stop()
			w.stays(holder, 12*time.Second, "API servers back")
			w.Eventually(3*time.Second, "an API server confirms", func() bool { return w.status(holder).Confirmed })
			if s := w.status(holder); s.Term != term {
				t.Errorf("the record changed hands: term %d, then %d", term, s.Term)
			}
			seen.end(0, 0)
		})
	}
}

// TestOutageThenPowerOff: no API server answers, and the holder's node dies: the
// VIP moves all the same, and stays moved when the API servers are back.
func TestOutageThenPowerOff(t *testing.T) {
	t.Parallel()
	w := boot(t)
	old := w.Holder(vip)
	w.StopAPI(lab.Hung)
	w.stays(old, 8*time.Second, "API servers hung")
	seen := w.look()
	old.CutLink(lab.SilentCut)
	t.Logf("another node holds after %s", w.elsewhere(old, 10*time.Second))
	time.Sleep(2 * time.Second)
	old.HealLink()
	w.healed(old)
	w.StartAPI()
	w.stays(w.Holder(vip), 10*time.Second, "API servers back")
	if now := w.Holder(vip); now.Name() == old.Name() {
		t.Errorf("the VIP moved back to %s when the API servers came", old.Name())
	}
	w.Eventually(10*time.Second, "an API server confirms", func() bool { return w.status(w.Holder(vip)).Confirmed })
	seen.end(room*time.Second, time.Second)
}

// TestLeaseVandalised: the Lease deleted or scribbled on every second for 30 s
// moves nothing.
func TestLeaseVandalised(t *testing.T) {
	t.Parallel()
	w := boot(t)
	holder := w.Holder(vip)
	seen := w.look()
	leases := w.Kube().CoordinationV1().Leases("mooring-system")
	ctx := context.Background()
	stop := time.Now().Add(30 * time.Second)
	for i := 0; time.Now().Before(stop); i++ {
		var err error
		switch i % 5 {
		case 0:
			err = leases.Delete(ctx, "apiserver", meta.DeleteOptions{})
		case 1:
			err = scribble(w, `{"spec":{"holderIdentity":"nonsense","leaseTransitions":99}}`)
		case 2:
			err = scribble(w, `{"spec":null}`)
		case 3:
			err = scribble(w, fmt.Sprintf(`{"spec":{"holderIdentity":%q,"leaseTransitions":7}}`, w.other(holder).Name()))
		case 4:
			err = scribble(w, `{"metadata":{"annotations":{"mooring.dev/term":"x"}},"spec":{"leaseTransitions":0}}`)
		}
		if err != nil {
			t.Logf("vandal: %v", err)
		}
		w.stays(holder, time.Second, "Lease vandalised")
	}
	w.stays(holder, 9*time.Second, "afterwards")
	seen.end(0, 0)
	if !w.said(holder, "RecordRepaired") {
		t.Error("the holder does not say that it repaired the record")
	}
}

// scribble patches the Lease as somebody with kubectl would.
func scribble(w *world, patch string) error {
	_, err := w.TryKubectl(nil, "patch", "lease", "apiserver", "-n", "mooring-system", "--type=merge", "-p", patch)
	return err
}

package election

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordination "k8s.io/api/coordination/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 123456000, time.UTC)

func everybody(string) bool { return true }

// TestLeaseRoundTrip: what is encoded is read back, over JSON as the API has it.
func TestLeaseRoundTrip(t *testing.T) {
	for _, r := range []Record{
		{Holder: "n1", Transitions: 1},
		{Holder: "n1", Transitions: 7, From: "n2", Cause: CauseMove},
		{Holder: strings.Repeat("n", 253), Transitions: 1<<31 - 1, Cause: CauseExpired},
	} {
		l := encode(nil, "apiserver", r, 7*time.Second, noon)
		data, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		var back coordination.Lease
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		back.UID, back.ResourceVersion = "u1", "42"
		r.UID, r.Version, r.Lease = "u1", "42", 7*time.Second
		want := View{Exists: true, Sound: true, Candidate: true, Record: r}
		if diff := cmp.Diff(want, toView(&back, everybody)); diff != "" {
			t.Error(diff)
		}
		if got := back.Spec; *got.LeaseDurationSeconds != 7 || !got.RenewTime.Time.Equal(noon) {
			t.Errorf("spec %v", got)
		}
	}
}

// TestLeaseProof: an edit of the spec alone does not prove a term.
func TestLeaseProof(t *testing.T) {
	holder, other, empty, n, m := "n1", "n2", "", int32(3), int32(4)
	for name, edit := range map[string]func(*coordination.Lease){
		"holder":             func(l *coordination.Lease) { l.Spec.HolderIdentity = &other },
		"transitions":        func(l *coordination.Lease) { l.Spec.LeaseTransitions = &m },
		"no holder":          func(l *coordination.Lease) { l.Spec.HolderIdentity = &empty },
		"nil holder":         func(l *coordination.Lease) { l.Spec.HolderIdentity = nil },
		"nil transitions":    func(l *coordination.Lease) { l.Spec.LeaseTransitions = nil },
		"empty spec":         func(l *coordination.Lease) { l.Spec = coordination.LeaseSpec{} },
		"no annotations":     func(l *coordination.Lease) { l.Annotations = nil },
		"another annotation": func(l *coordination.Lease) { l.Annotations[annTerm] = "n1/4" },
	} {
		l := encode(nil, "apiserver", Record{Holder: holder, Transitions: int64(n)}, 7*time.Second, noon)
		if !toView(l, everybody).Sound {
			t.Fatal("not sound to begin with")
		}
		edit(l)
		if v := toView(l, everybody); v.Sound || !v.Exists {
			t.Errorf("%s: %+v", name, v)
		}
	}
	if v := toView(nil, everybody); v.Exists {
		t.Error("a Lease that does not exist does")
	}
}

// TestLeaseKeepsWhatIsNotOurs: labels and owners set by others stay, a change of
// hands dates the acquisition and a renewal does not.
func TestLeaseKeepsWhatIsNotOurs(t *testing.T) {
	base := encode(nil, "apiserver", Record{Holder: "n1", Transitions: 1, From: "n2"}, 7*time.Second, noon)
	base.Labels["team"] = "network"
	base.Annotations["note"] = "hands off"
	base.OwnerReferences = []meta.OwnerReference{{Name: "x"}}
	before := base.DeepCopy()

	renewed := encode(base, "apiserver", Record{Holder: "n1", Transitions: 1}, 7*time.Second, noon.Add(time.Second))
	if diff := cmp.Diff(before, base); diff != "" {
		t.Errorf("the base was changed: %s", diff)
	}
	if renewed.Labels["team"] != "network" || renewed.Annotations["note"] != "hands off" ||
		len(renewed.OwnerReferences) != 1 {
		t.Errorf("lost what others wrote: %v", renewed.ObjectMeta)
	}
	if _, there := renewed.Annotations[annFrom]; there {
		t.Error("the first renewal must take away who handed over")
	}
	if !renewed.Spec.AcquireTime.Time.Equal(noon) || !renewed.Spec.RenewTime.Time.Equal(noon.Add(time.Second)) {
		t.Errorf("renewal: %v", renewed.Spec)
	}
	taken := encode(renewed, "apiserver", Record{Holder: "n2", Transitions: 2}, 7*time.Second, noon.Add(time.Minute))
	if !taken.Spec.AcquireTime.Time.Equal(noon.Add(time.Minute)) {
		t.Errorf("acquired at %v", taken.Spec.AcquireTime)
	}
}

func TestMemberLease(t *testing.T) {
	m := Member{
		Node: "n1", MACs: []string{"02:00:00:00:00:01", "02:00:00:00:00:02"},
		Addrs: []string{"10.0.0.1", "fd00::1"}, Live: true,
	}
	l := encodeMember(nil, m, "agent-a", noon)
	if got, ok := toMember(l); !ok || !cmp.Equal(got, m) {
		t.Errorf("%v %v", got, ok)
	}
	if l.Name != "node-n1" || *l.Spec.HolderIdentity != "agent-a" {
		t.Errorf("%s %v", l.Name, l.Spec)
	}
	m.Live = false
	if got, _ := toMember(encodeMember(l, m, "agent-a", noon)); got.Live {
		t.Error("leaving, but live")
	}
	m.Live = true
	left := encodeMember(l, Member{Node: "n1"}, "agent-a", noon)
	if got, _ := toMember(encodeMember(left, m, "agent-a", noon)); !cmp.Equal(got, m) {
		t.Errorf("came back as %v", got)
	}
	for name, other := range map[string]*coordination.Lease{
		"a group":     encode(nil, "node-n1", Record{Holder: "n1"}, time.Second, noon),
		"a kubelet's": {ObjectMeta: meta.ObjectMeta{Name: "node-n1"}},
		"other name":  {ObjectMeta: meta.ObjectMeta{Name: "n1", Labels: map[string]string{labelKind: kindMember}}},
	} {
		if got, ok := toMember(other); ok {
			t.Errorf("%s is taken for the member %v", name, got)
		}
	}
}

// FuzzToView: whatever stands in a Lease is no panic, and sound only with a
// holder and the proof of its term.
func FuzzToView(f *testing.F) {
	r := Record{Holder: "n1", Transitions: 3, From: "n2"}
	whole, _ := json.Marshal(encode(nil, "apiserver", r, 7*time.Second, noon))
	f.Add(whole)
	f.Add([]byte(`{"spec":{"holderIdentity":"","leaseTransitions":-1}}`))
	f.Add([]byte(`{"metadata":{"annotations":{"mooring.dev/term":"/0"}},"spec":{"holderIdentity":"/0"}}`))
	f.Add([]byte(`{"metadata":{"resourceVersion":"x","annotations":{"mooring.dev/term":"n/-5"}},` +
		`"spec":{"holderIdentity":"n","leaseTransitions":-5}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var l coordination.Lease
		if json.Unmarshal(data, &l) != nil {
			return
		}
		v := toView(&l, everybody)
		switch {
		case !v.Exists:
			t.Error("a Lease that exists does not")
		case v.Sound && v.Record.Holder == "":
			t.Error("sound without a holder")
		case v.Sound && v.Record.Transitions < 0:
			t.Errorf("sound with %d transitions", v.Record.Transitions)
		case v.Sound:
			again := toView(encode(&l, l.Name, v.Record, 7*time.Second, noon), everybody)
			if diff := cmp.Diff(v, again); diff != "" {
				t.Error(diff)
			}
		}
		toMember(&l)
	})
}

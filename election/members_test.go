package election

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordination "k8s.io/api/coordination/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// listed answers every request with one list of Leases, and notes the selector.
type listed struct {
	list     coordination.LeaseList
	selector string
}

// RoundTrip implements http.RoundTripper.
func (l *listed) RoundTrip(req *http.Request) (*http.Response, error) {
	l.selector = req.URL.Query().Get("labelSelector")
	data, err := json.Marshal(l.list)
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(bytes.NewReader(data)), Request: req,
	}, err
}

// TestReadMembers: who renews lives; who leaves, is late or never renewed does not.
func TestReadMembers(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	all := &listed{list: coordination.LeaseList{TypeMeta: meta.TypeMeta{Kind: "LeaseList", APIVersion: "coordination.k8s.io/v1"}}}
	add := func(m Member, renewed time.Duration) {
		all.list.Items = append(all.list.Items, *encodeMember(nil, m, "x", now.Add(-renewed)))
	}
	add(Member{Node: "n1", MACs: []string{"02:00:00:00:00:01"}, Live: true}, memberEvery)
	add(Member{Node: "n2", Live: true}, time.Hour)
	add(Member{Node: "n3"}, 0)
	all.list.Items = append(all.list.Items, coordination.Lease{ObjectMeta: meta.ObjectMeta{Name: "node-n4"}})
	got, err := ReadMembers(t.Context(), &rest.Config{
		Host: "https://a", Transport: all, ContentConfig: rest.ContentConfig{ContentType: "application/json"},
	}, "mooring-system", now)
	want := []Member{{Node: "n1", MACs: []string{"02:00:00:00:00:01"}, Live: true}, {Node: "n2"}, {Node: "n3"}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(d, err)
	}
	if all.selector != "mooring.dev/lease=member" {
		t.Errorf("asked for %q", all.selector)
	}
}

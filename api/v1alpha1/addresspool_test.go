package v1alpha1

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/yaml"
)

// full is a pool with every field set.
const full = `
apiVersion: mooring.dev/v1alpha1
kind: AddressPool
metadata:
  name: public
spec:
  addresses: [192.0.2.0/28, 192.0.2.32-192.0.2.40, "2001:db8::/64"]
  autoAssign: false
  avoidBuggyIPs: true
  priority: 3
  namespaces: [shop]
  namespaceSelectors:
  - matchLabels: {team: web}
  serviceSelectors:
  - matchExpressions:
    - {key: tier, operator: In, values: [front]}
  announce:
    l2:
      interfaces: [bond0.12]
      nodeSelector:
        matchLabels: {edge: "yes"}
      shards: 4
status:
  size: 25
  used: 1
  free: 23
  conditions:
  - {type: Ready, status: "True", reason: Used, message: "", lastTransitionTime: "2026-01-02T03:04:05Z"}
  quarantined:
  - {address: 192.0.2.3, mac: "02:00:00:00:00:01"}
`

// TestScheme: the types are known under their group and survive the wire.
func TestScheme(t *testing.T) {
	s := runtime.NewScheme()
	if err := AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	data, err := yaml.YAMLToJSONStrict([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	o, kind, err := serializer.NewCodecFactory(s).UniversalDeserializer().Decode(data, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if kind.String() != "mooring.dev/v1alpha1, Kind=AddressPool" {
		t.Error(kind)
	}
	var want, got any
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	back, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(back, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("not the same after a journey: %s", diff)
	}
	if !s.IsVersionRegistered(GroupVersion) || !s.Recognizes(GroupVersion.WithKind("AddressPoolList")) {
		t.Error("the list is not known")
	}
	// What a watch of a custom resource is decoded with.
	if !s.Recognizes(GroupVersion.WithKind("WatchEvent")) {
		t.Error("watch events are not known")
	}
}

// TestDeepCopy: nothing of a copy is the original's.
func TestDeepCopy(t *testing.T) {
	var p AddressPool
	if err := yaml.UnmarshalStrict([]byte(full), &p); err != nil {
		t.Fatal(err)
	}
	list := &AddressPoolList{Items: []AddressPool{p}}
	copied := list.DeepCopyObject().(*AddressPoolList)
	if diff := cmp.Diff(list, copied); diff != "" {
		t.Fatal(diff)
	}
	if where := shared(reflect.ValueOf(list), reflect.ValueOf(copied), "list"); where != "" {
		t.Errorf("%s is shared with the copy", where)
	}
}

// shared finds a pointer, slice or map that two values have in common.
func shared(a, b reflect.Value, path string) string {
	switch a.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		if a.Type() == reflect.TypeFor[*metav1.Time]() || a.IsNil() || a.Kind() != reflect.Pointer && a.Len() == 0 {
			return ""
		}
		if a.Pointer() == b.Pointer() {
			return path
		}
		if a.Kind() == reflect.Pointer {
			return shared(a.Elem(), b.Elem(), path)
		}
		for i := 0; a.Kind() == reflect.Slice && i < a.Len(); i++ {
			if where := shared(a.Index(i), b.Index(i), path+"[]"); where != "" {
				return where
			}
		}
	case reflect.Struct:
		// A time's location is shared by all times.
		for i := 0; a.Type() != reflect.TypeFor[metav1.Time]() && i < a.NumField(); i++ {
			if where := shared(a.Field(i), b.Field(i), path+"."+a.Type().Field(i).Name); where != "" {
				return where
			}
		}
	default:
	}
	return ""
}

func TestAuto(t *testing.T) {
	yes, no := true, false
	for _, s := range []struct {
		set  *bool
		want bool
	}{{nil, true}, {&yes, true}, {&no, false}} {
		if got := (&AddressPoolSpec{AutoAssign: s.set}).Auto(); got != s.want {
			t.Errorf("autoAssign %v counts as %t", s.set, got)
		}
	}
}

package config

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"mooring.dev/mooring/internal/lb"
)

// sample gives, for every field, a value that is right and not the default.
// TestEveryFieldHasASample keeps it complete.
func sample() map[string]string {
	return map[string]string{
		"apiVersion":                        "mooring.dev/v1alpha1",
		"kind":                              "AgentConfig",
		"kubeconfig":                        "/etc/other.conf",
		"interface":                         "bond0.7",
		"node":                              "n7.example.com",
		"namespace":                         "vips",
		"runDir":                            "/run/other",
		"stateDir":                          "/var/lib/other",
		"log.format":                        "json",
		"log.level":                         "debug",
		"metrics.bind":                      "0.0.0.0:19441",
		"apiServer.vips":                    "[192.0.2.77]",
		"apiServer.port":                    "16443",
		"apiServer.proxyPort":               "17443",
		"apiServer.balance":                 "off",
		"apiServer.servers":                 "['10.7.0.1:16443']",
		"apiServer.check.path":              "'/livez?verbose=1'",
		"apiServer.check.clientCertificate": "never",
		"apiServer.maxConnections":          "7000",
		"apiServer.allowOutsideSubnet":      "true",
		"lease.duration":                    "20s",
		"lease.renew":                       "500ms",
		"fence.validLifetime":               "3s",
		"hello.interval":                    "20ms",
		"hello.multiplier":                  "5",
		"hello.port":                        "17444",
		"hello.keyFile":                     "/etc/mooring/keys",
		"moves.drainTimeout":                "90s",
		"moves.preempt":                     "true",
		"moves.preemptDelay":                "1500ms",
		"priority":                          "200",
		"witnesses":                         "[10.7.0.250, '2001:db8::250']",
		"peers":                             "[{node: n8, address: 10.7.0.8, mac: '52:54:00:00:00:08'}]",
		"announce.rate":                     "15",
		"announce.refresh":                  "1m",
		"services.enabled":                  "true",
		"services.class":                    "only-class",
		"services.acceptedClasses":          "[example.org/b]",
		"services.maxConnections":           "5000",
		"services.peersPort":                "17445",
	}
}

// render writes values at dotted paths as a YAML file, one line each section.
func render(values map[string]string) string {
	var out strings.Builder
	var section func(t reflect.Type, prefix string) string
	section = func(t reflect.Type, prefix string) string {
		var parts []string
		for i := range t.NumField() {
			f := t.Field(i)
			path := prefix + f.Tag.Get("yaml")
			text, ok := values[path]
			if f.Type.Kind() == reflect.Struct && len(names(f.Type)) > 0 {
				text, ok = "{"+section(f.Type, path+".")+"}", true
			}
			if !ok {
				continue
			}
			parts = append(parts, f.Tag.Get("yaml")+": "+text)
			if prefix == "" {
				fmt.Fprintln(&out, parts[len(parts)-1])
			}
		}
		return strings.Join(parts, ", ")
	}
	section(reflect.TypeFor[raw](), "")
	return out.String()
}

// required are the values without which there is no configuration.
func required() map[string]string {
	return map[string]string{
		"apiVersion": APIVersion, "kind": Kind, "kubeconfig": "/etc/kubernetes/mooring.conf",
		"apiServer.vips": "[192.0.2.10]",
	}
}

// lookup returns the typed value at a dotted path.
func lookup(c Config, path string) any {
	v := reflect.ValueOf(c)
	for part := range strings.SplitSeq(path, ".") {
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("yaml") == part {
				v = v.Field(i)
				break
			}
		}
	}
	return v.Interface()
}

func TestEveryFieldHasASample(t *testing.T) {
	for _, path := range paths(reflect.TypeFor[raw](), "") {
		if sample()[path] == "" {
			t.Errorf("sample lacks %s", path)
		}
	}
}

// TestEveryFieldArrives sets one field at a time and finds it, and only it, in
// the typed configuration: no field is read into the place of another.
func TestEveryFieldArrives(t *testing.T) {
	base, err := parse("f", []byte(render(required())), "n1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(minimalConfig(), base, sameAddr); diff != "" {
		t.Fatal(diff)
	}
	for _, path := range paths(reflect.TypeFor[Config](), "") {
		values := required()
		values[path] = sample()[path]
		c, err := parse("f", []byte(render(values)), "n1")
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if diff := cmp.Diff([]string{path}, c.Changed(base)); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
}

// TestWholeSample sets all of them together and compares a few kinds of values
// as Go has them.
func TestWholeSample(t *testing.T) {
	c, err := parse("f", []byte(render(sample())), "n1")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"node":                              "n7.example.com",
		"metrics.bind":                      netip.MustParseAddrPort("0.0.0.0:19441"),
		"apiServer.vips":                    []netip.Addr{netip.MustParseAddr("192.0.2.77")},
		"apiServer.port":                    uint16(16443),
		"apiServer.balance":                 BalanceOff,
		"apiServer.servers":                 []netip.AddrPort{netip.MustParseAddrPort("10.7.0.1:16443")},
		"apiServer.check.path":              "/livez?verbose=1",
		"apiServer.check.clientCertificate": CertificateNever,
		"apiServer.maxConnections":          7000,
		"apiServer.allowOutsideSubnet":      true,
		"lease.duration":                    20 * time.Second,
		"lease.renew":                       500 * time.Millisecond,
		"hello.interval":                    20 * time.Millisecond,
		"hello.port":                        uint16(17444),
		"moves.preempt":                     true,
		"priority":                          200,
		"witnesses":                         []netip.Addr{netip.MustParseAddr("10.7.0.250"), netip.MustParseAddr("2001:db8::250")},
		"peers":                             []Peer{{"n8", netip.MustParseAddr("10.7.0.8"), "52:54:00:00:00:08"}},
		"announce.refresh":                  time.Minute,
	}
	for path, v := range want {
		if diff := cmp.Diff(v, lookup(c, path), sameAddr); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
}

// TestEveryFieldLeftEmpty: a name without a value is as if it were not there.
func TestEveryFieldLeftEmpty(t *testing.T) {
	for _, path := range paths(reflect.TypeFor[Config](), "") {
		if _, must := required()[path]; must {
			continue
		}
		values := required()
		values[path] = "null"
		c, err := parse("f", []byte(render(values)), "n1")
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if diff := cmp.Diff(minimalConfig(), c, sameAddr, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
}

// TestEveryFieldInTheWrongShape: the error names the field and the line, and
// nothing is said twice.
func TestEveryFieldInTheWrongShape(t *testing.T) {
	for _, path := range paths(reflect.TypeFor[raw](), "") {
		for _, wrong := range []string{"{a: 1}", "[[1]]"} {
			values := required()
			values[path] = wrong
			text := render(values)
			_, err := parse("f", []byte(text), "n1")
			if err == nil {
				t.Errorf("%s: %s accepted", path, wrong)
				continue
			}
			line := 1 + strings.Count(text[:strings.Index(text, wrong)], "\n")
			where := fmt.Sprintf("f:%d: %s", line, path)
			if n := strings.Count(err.Error(), path); n != 1 || !strings.HasPrefix(err.Error(), where) {
				t.Errorf("%s: %s: %v", path, wrong, err)
			}
		}
	}
}

// TestEveryFieldMissing: exactly the four required ones are missed.
func TestEveryFieldMissing(t *testing.T) {
	for path := range required() {
		values := required()
		delete(values, path)
		_, err := parse("f", []byte(render(values)), "n1")
		if err == nil || !strings.HasPrefix(err.Error(), "f: "+path+": is missing; ") {
			t.Errorf("without %s: %v", path, err)
		}
	}
}

// TestEveryTypo drops, doubles and changes a letter of every name; the answer
// is the right name.
func TestEveryTypo(t *testing.T) {
	for _, path := range paths(reflect.TypeFor[raw](), "") {
		prefix, name := "", path
		if i := strings.LastIndex(path, "."); i >= 0 {
			prefix, name = path[:i+1], path[i+1:]
		}
		known := names(reflect.TypeFor[raw]())
		if prefix != "" {
			known = []string{name, "somethingElseEntirely"}
		}
		for i := 1; i < len(name)-1; i++ {
			typos := []string{name[:i] + name[i+1:], name[:i] + name[i:i+1] + name[i:], name[:i] + "x" + name[i+1:]}
			for _, typo := range typos {
				want := fmt.Sprintf("did you mean %s?", path)
				if got := suggest(typo, prefix, known); typo != name && got != want {
					t.Errorf("%s%s: %s, want %s", prefix, typo, got, want)
				}
			}
		}
	}
}

func TestLevenshtein(t *testing.T) {
	stories := []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"", "abc", 3}, {"vips", "vips", 0}, {"vip", "vips", 1},
		{"kitten", "sitting", 3}, {"lease", "laese", 2}, {strings.Repeat("a", 65), "a", 66},
	}
	for _, s := range stories {
		if got := lb.EditDistance(s.a, s.b); got != s.want {
			t.Errorf("%q to %q: %d, want %d", s.a, s.b, got, s.want)
		}
		if s.want != lb.EditDistance(s.b, s.a) {
			t.Errorf("%q and %q: not symmetric", s.a, s.b)
		}
	}
}

// TestTimesFitTogether tries random times: what is accepted keeps the rule, and
// what the error proposes is accepted.
func TestTimesFitTogether(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		values := required()
		renew := time.Duration(200+random.IntN(10_000)) * time.Millisecond
		fence := time.Duration(2+random.IntN(59)) * time.Second
		lease := time.Duration(1+random.IntN(90)) * time.Second
		values["lease.renew"] = renew.String()
		values["fence.validLifetime"] = fence.String()
		values["lease.duration"] = lease.String()
		_, err := parse("f", []byte(render(values)), "n1")
		if fits := lease >= renew+fence+slack; fits != (err == nil) {
			t.Fatalf("lease %s, renewal %s, fence %s: %v", lease, renew, fence, err)
		}
		if err == nil {
			continue
		}
		_, proposal, _ := strings.Cut(err.Error(), "must last at least ")
		values["lease.duration"] = proposal
		if _, err := parse("f", []byte(render(values)), "n1"); err != nil {
			t.Fatalf("the proposed %s: %v", proposal, err)
		}
	}
}

// TestBounds walks to both ends of every number and duration and one step
// beyond.
func TestBounds(t *testing.T) {
	stories := []struct {
		path        string
		good, wrong []string
	}{
		{"apiServer.port", []string{"1", "65535"}, []string{"0", "65536", "-1", "1.0", "0x10", "six"}},
		{"apiServer.proxyPort", []string{"1", "65535"}, []string{"0", "65536", "''"}},
		{"apiServer.maxConnections", []string{"0", "1000000"}, []string{"-1", "1000001", "1e3"}},
		{"announce.rate", []string{"1", "10000"}, []string{"0", "10001"}},
		{"announce.refresh", []string{"1s", "1h", "1500ms"}, []string{"999ms", "1h1s", "30"}},
		{"fence.validLifetime", []string{"2s", "4000ms"}, []string{"1s", "61s", "2500ms"}},
		{"hello.interval", []string{"10ms", "1s"}, []string{"9ms", "1001ms", "0"}},
		{"hello.multiplier", []string{"2", "10"}, []string{"1", "11", "3.0"}},
		{"hello.port", []string{"1024", "65535"}, []string{"0", "1023", "65536"}},
		{"hello.keyFile", []string{"''", "/k"}, []string{"k", "/"}},
		{"moves.drainTimeout", []string{"0", "0s", "1s", "1h"}, []string{"1ms", "1500ms", "1h1s", "-1s", "5"}},
		{"moves.preemptDelay", []string{"0", "1ms", "1h"}, []string{"-1ms", "1h1ms"}},
		{"priority", []string{"0", "255"}, []string{"-1", "256"}},
		{"lease.duration", []string{"11s", "10m"}, []string{"10s", "10m1s", "7100ms", "0s", "-7s"}},
		{"lease.renew", []string{"200ms", "1s"}, []string{"199ms", "61s", "0s"}},
		{"interface", []string{"abcdefghijklmno"}, []string{"abcdefghijklmnop", "..", "'a b'", "a:0"}},
		{"namespace", []string{strings.Repeat("a", 63)}, []string{strings.Repeat("a", 64), "-a", "a-", "A", "''"}},
		{"node", []string{strings.Repeat("a", 253), "a-b.c0"}, []string{strings.Repeat("a", 254), "a..b", ".a", "a_b"}},
		{"apiServer.check.path", []string{"/", "/" + strings.Repeat("a", 254)},
			[]string{"/" + strings.Repeat("a", 255), "readyz", "'/a b'", `"/a\nb"`, "'/#'", `'/"'`}},
		{"kubeconfig", []string{"/k", "'/a b/c'"}, []string{"k", "./k", "/", "//", `"/a\nb"`, "''"}},
	}
	for _, s := range stories {
		try := func(value string) error {
			values := required()
			values[s.path] = value
			_, err := parse("f", []byte(render(values)), "n1")
			return err
		}
		for _, v := range s.good {
			if err := try(v); err != nil {
				t.Errorf("%s: %s: %v", s.path, v, err)
			}
		}
		for _, v := range s.wrong {
			if err := try(v); err == nil || !strings.Contains(err.Error(), s.path+": ") {
				t.Errorf("%s: %s: %v", s.path, v, err)
			}
		}
	}
}

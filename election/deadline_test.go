package election

import (
	"testing"
	"time"
)

// TestAgeing: how old a record is proven to be. Reads stand as begin and end in
// seconds; an end of 0 is a read that failed.
func TestAgeing(t *testing.T) {
	type read struct{ begin, end float64 }
	for _, c := range []struct {
		name  string
		seen  float64
		reads []read
		at    float64
		want  float64
	}{
		{"never read", 10, nil, 20, 0},
		{"a missed renewal, then reads", 10, []read{{11.25, 11.26}, {12.25, 12.26}}, 13.25, 3.25},
		{"first read much later", 10, []read{{15, 15.1}, {16, 16.1}}, 17, 1.9},
		{"a failed read in between", 10, []read{{11.25, 11.26}, {12.25, 0}, {13.25, 13.5}}, 14.5, 1},
		{"nothing read since the failure", 10, []read{{11.25, 11.26}, {12.25, 0}}, 14, 0},
		{"failed at first: the time before is not proven", 10, []read{{11, 0}, {11.5, 11.6}}, 12.6, 1},
		{"a read slower than a second", 10, []read{{11.25, 11.26}, {12.25, 13.5}}, 14.5, 1},
		{"a slow first read", 10, []read{{11.25, 12.5}}, 13.5, 1},
		{"just a second is quick enough", 10, []read{{11, 12}}, 13, 3},
		{"asked for a time before the chain", 10, []read{{15, 15.1}}, 12, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := func(f float64) time.Duration { return time.Duration(f * float64(time.Second)) }
			var a ageing
			a.saw(s(c.seen), "7")
			for _, r := range c.reads {
				if r.end == 0 {
					a.failed()
					continue
				}
				a.saw(s(r.end), "7")
				a.answered(s(r.end), s(r.begin))
			}
			if got := a.at(s(c.at)); (got - s(c.want)).Abs() > time.Millisecond {
				t.Errorf("age %v, want %v", got, s(c.want))
			}
		})
	}
}

// TestAgeingStartsAnew: any change of the version, also back, is a sign of life.
func TestAgeingStartsAnew(t *testing.T) {
	var a ageing
	for i, version := range []string{"7", "8", "", "7"} {
		now := time.Duration(10*(i+1)) * time.Second
		a.saw(now, version)
		if got := a.at(now); got != 0 {
			t.Errorf("%q: age %v", version, got)
		}
		a.answered(now+time.Second, now+time.Second)
		if got := a.at(now + 5*time.Second); got != 5*time.Second {
			t.Errorf("%q: age %v after five seconds", version, got)
		}
	}
}

// TestDeadlines: the earliest first, each once, none before its time.
func TestDeadlines(t *testing.T) {
	var d deadlines
	if _, ok := d.take(time.Hour); ok || d.next() != 0 {
		t.Fatal("a deadline out of nowhere")
	}
	d.set(onRead, 3*time.Second)
	d.set(onWake, 2*time.Second)
	d.set(onSign, 4*time.Second)
	d.set(onSwap, 1*time.Second)
	d.clear(onSwap)
	if d.next() != 2*time.Second {
		t.Errorf("next is %v", d.next())
	}
	if _, ok := d.take(2*time.Second - 1); ok {
		t.Error("taken before its time")
	}
	for _, want := range []timer{onWake, onRead} {
		if got, ok := d.take(3 * time.Second); !ok || got != want {
			t.Errorf("took %d %v, want %d", got, ok, want)
		}
	}
	if got, ok := d.take(3 * time.Second); ok {
		t.Errorf("took %d, which is not due", got)
	}
	d.set(onSign, 5*time.Second)
	if _, ok := d.take(4 * time.Second); ok {
		t.Error("the old time of a deadline that was moved")
	}
}

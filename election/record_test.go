package election

import "testing"

// TestJudge: what a look at the Lease means beside the record known so far.
func TestJudge(t *testing.T) {
	known := Record{Holder: "n1", Transitions: 5, UID: "u1"}
	sound := func(holder string, n int64, candidate bool) View {
		return View{Exists: true, Sound: true, Candidate: candidate, Record: Record{Holder: holder, Transitions: n}}
	}
	made := func(uid, holder string, n int64, candidate bool) View {
		v := sound(holder, n, candidate)
		v.Record.UID = uid
		return v
	}
	for _, c := range []struct {
		name string
		ever bool
		view View
		want verdict
	}{
		{"deleted", true, View{}, missing},
		{"deleted and nothing known", false, View{}, missing},
		{"emptied", true, View{Exists: true}, damage},
		{"emptied and nothing known", false, View{Exists: true}, damage},
		{"edited without the proof of the term", true,
			View{Exists: true, Candidate: true, Record: Record{Holder: "n2", Transitions: 6}}, damage},
		{"renewed", true, sound("n1", 5, true), same},
		{"renewed by a holder whose member Lease is gone", true, sound("n1", 5, false), same},
		{"next term", true, sound("n2", 6, true), successor},
		{"next term of the same holder", true, sound("n1", 6, true), successor},
		{"much later term", true, sound("n2", 60, true), successor},
		{"next term of a stranger", true, sound("n9", 6, false), damage},
		{"another holder in this term", true, sound("n2", 5, true), damage},
		{"another holder in this term of the same Lease", true, made("u1", "n2", 5, true), damage},
		{"another holder in this term of a Lease made anew", true, made("u2", "n2", 5, true), successor},
		{"a stranger in this term of a Lease made anew", true, made("u2", "n9", 5, false), damage},
		{"an earlier term of a Lease made anew", true, made("u2", "n2", 4, true), damage},
		{"a term that is over", true, sound("n2", 4, true), damage},
		{"an old term of the same holder", true, sound("n1", 4, true), damage},
		{"anything sound when nothing is known", false, sound("n9", 1, false), successor},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := judge(known, c.ever, c.view); got != c.want {
				t.Errorf("verdict %d, want %d", got, c.want)
			}
		})
	}
}

// TestJudgeKeepsFrom: the note of who handed over is no part of the term, so
// that its removal is the target's sign and not another term.
func TestJudgeKeepsFrom(t *testing.T) {
	r := Record{Holder: "n1", Transitions: 5, From: "n2", Version: "7"}
	v := View{Exists: true, Sound: true, Candidate: true, Record: Record{Holder: "n1", Transitions: 5, Version: "8"}}
	if got := judge(r, true, v); got != same {
		t.Errorf("verdict %d, want same", got)
	}
	if s := r.String(); s != "n1/5 from n2" {
		t.Errorf("prints %q", s)
	}
}

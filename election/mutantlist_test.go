package election

// mutants are mistakes that somebody might make in the machine: each takes one
// rule of ownership.md away. Where two lines guard the same, both are taken.
// Snippets have to occur exactly once.
var mutants = []mutant{
	{"no fence", []edit{
		{"machine.go", "	case onWake:\n		m.becomeFenced(Frozen)\n", "	case onWake:\n"},
		{"holding.go", "	notAfter := m.wake\n", "	notAfter := m.now + m.cfg.ValidLft\n"},
	}},
	{"wake-up guard removed", []edit{
		{"machine.go", "at != 0 && at <= now {\n		// The fence", "at < 0 {\n		// The fence"},
		{"holding.go", "	notAfter := m.wake\n", "	m.due.set(onWake, m.now+m.cfg.ValidLft)\n	notAfter := m.due[onWake]\n"},
	}},
	{"no swap", []edit{{"evidence.go", "	m.swapClaim()\n	m.due.clear(onRead, onIdle)\n", "	m.due.clear(onRead, onIdle)\n"}}},
	{"cut-off node claims", []edit{{"evidence.go", "	case !s.witness:\n", "	case false:\n"}}},
	{"probe skipped", []edit{{"evidence.go", "	case !s.kernel && s.silent < silentProbes:\n", "	case false:\n"}}},
	{"answers ignored", []edit{{"evidence.go", "	case peer != \"\":\n		s.silent, s.kernel = 0, true\n", "	case peer != \"\" && false:\n"}}},
	{"a blocked hello is a death", []edit{
		{"evidence.go", "	case s.kernel && m.renewing():\n", "	case false:\n"},
		{"evidence.go", "func (m *Machine) patience() time.Duration {\n", "func (m *Machine) patience() time.Duration {\n	if true {\n		return 0\n	}\n"},
	}},
	{"age alone suffices", []edit{{"standby.go", "	case peer != \"\" && (m.age.at(m.read) < 2*m.lease() || m.fencing(peer)):\n", "	case false:\n"}}},
	{"hung servers prove an age", []edit{
		{"deadline.go", "func (a *ageing) failed() { a.broken, a.since = true, 0 }", "func (a *ageing) failed() {}"},
		{"deadline.go", "	gap := a.since != 0 && a.last != 0 &&", "	gap := false && a.last != 0 &&"},
	}},
	{"dead target waited for", []edit{{"handover.go", "	m.due.set(onSign, m.now+signWait)\n	// An announcement", "	// An announcement"}}},
	{"sign before the address", []edit{{"peers.go", "p.up() && p.say.Phase == Holding && p.say.Transitions == m.known.Transitions:\n		m.signed()", "p.up() && p.say.Transitions == m.known.Transitions:\n		m.signed()"}}},
	{"release before delete", []edit{{"holding.go", "	m.do(LetGo{})\n	m.say(why,", "	m.say(why,"}}},
	{"delete before the sign", []edit{{"handover.go", "	m.do(Lock{Mode: LockClosed})\n	m.refresh()\n}\n\n// drainingSaw", "	m.do(Lock{Mode: LockClosed}, LetGo{})\n}\n\n// drainingSaw"}}},
	{"chain not removed", []edit{{"forwards.go", "	if m.forwards != \"\" && m.forwards == m.known.Holder {\n		m.skip(", "	if false {\n		m.skip("}}},
	{"no chain", []edit{{"holding.go", "	default:\n		m.forwardTo(from)\n", "	default:\n"}}},
	{"no copy", []edit{{"handover.go", "	m.do(Drain{For: keep})", "	m.do(LetGo{})\n	_ = keep"}}},
	{"provisional never re-read", []edit{{"machine.go", "		if m.provisional {\n			m.provisionalSaw(ev)\n			return\n", "		if m.provisional {\n			return\n"}}},
	{"hello's term ignored", []edit{{"peers.go", "	case p.say.Transitions > m.known.Transitions,\n", "	case false,\n"}}},
	{"quarrel never settled", []edit{{"machine.go", "	if m.phase == Holding && m.quarrel.with != \"\" {\n		m.settleQuarrel()", "	if false {\n		m.settleQuarrel()"}}},
	{"successor ignored", []edit{{"holding.go", "	case successor:\n		m.superseded(ev)\n", "	case successor:\n"}}},
	{"bootstrap over a holder", []edit{{"bootstrap.go", "	case len(ev.Answers) > 0:\n", "	case false:\n"}}},
	{"waits for the API", []edit{{"evidence.go", "m.now+claimTime)\n	m.due.set(onProvisional, m.now+claimWait)", "m.now+claimTime)\n	m.due.set(onProvisional, m.now+4*time.Second)"}}},
	{"preempts unasked", []edit{
		{"machine.go", "	if m.cfg.Preempt {\n", "	if true {\n"},
		{"wishes.go", "	if !m.cfg.Preempt {\n", "	if false {\n"},
	}},
}

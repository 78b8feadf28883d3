package main

import (
	"fmt"
	"html"
	"slices"
	"strings"
	"time"
)

// bar is a time on a lane, since the fault; Who answered in it.
type bar struct {
	Who      string
	From, To time.Duration
}

// lane is what one contender's clients and the wire saw of one run.
type lane struct {
	Name      string
	Note      string // printed at its end
	From, To  time.Duration
	Answers   []bar // who answered
	Outages   []bar // nobody did
	Contested []bar // two MACs answered at once
}

// group is a row of the table: lanes over one axis.
type group struct {
	Title string
	Lanes []lane
}

// The picture's measures in pixels.
const (
	pictureWidth = 1000
	axisLeft     = 150
	axisRight    = 880
	laneHeight   = 14
	laneGap      = 6
	titleHeight  = 26
	axisHeight   = 20
	legendHeight = 30
)

// colourOf a node is Okabe and Ito's, which colour-blind people tell apart.
func colourOf(node string) string {
	switch node {
	case "n1":
		return "#0072b2"
	case "n2":
		return "#009e73"
	case "n3":
		return "#e69f00"
	}
	return "#999999"
}

const outageColour, contestedColour = "#d40000", "#000000"

// How text is set, as attributes of its element.
const (
	start  = `text-anchor="start"`
	end    = `text-anchor="end"`
	middle = `text-anchor="middle"`
	bold   = start + ` font-weight="bold"`
)

// groups takes of each row the run whose outage was mooring's median, of all
// contenders: what they saw at the same time.
func groups(results []result) []group {
	var out []group
	for _, r := range results {
		all := r.Samples["mooring"]
		if len(all) == 0 || all[0].Lane.To == 0 {
			continue // a row without a timeline
		}
		outages := pick(all, func(s sample) time.Duration { return s.Outage })
		i := slices.Index(outages, median(outages))
		g := group{Title: r.Title}
		for _, name := range r.contenders() {
			s := r.Samples[name][i]
			s.Lane.Name, s.Lane.Note = name, millis(s.Outage)
			g.Lanes = append(g.Lanes, s.Lane)
		}
		out = append(out, g)
	}
	return out
}

// timeline draws who answered when, one lane for each contender and fault. PURE.
func timeline(all []group) string {
	var body strings.Builder
	y := legendHeight
	legend(&body)
	for _, g := range all {
		y = drawGroup(&body, g, y)
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">
<rect width="100%%" height="100%%" fill="#ffffff"/>
%s</svg>
`, pictureWidth, y+laneGap, pictureWidth, y+laneGap, body.String())
}

// legend explains the colours.
func legend(b *strings.Builder) {
	x := axisLeft
	for _, e := range [][2]string{{"n1 answers", colourOf("n1")}, {"n2 answers", colourOf("n2")}, {"n3 answers", colourOf("n3")},
		{"nobody answers clients", outageColour}, {"two MACs answer", contestedColour}} {
		fmt.Fprintf(b, `<rect x="%d" y="10" width="12" height="10" fill="%s"/>`+"\n", x, e[1])
		text(b, x+16, 19, start, e[0])
		x += 40 + 7*len(e[0])
	}
}

// drawGroup returns where the next one begins.
func drawGroup(b *strings.Builder, g group, y int) int {
	if len(g.Lanes) == 0 {
		return y
	}
	from, to := g.Lanes[0].From, g.Lanes[0].To
	for _, l := range g.Lanes {
		from, to = min(from, l.From), max(to, l.To)
	}
	scale := axis{from, to}
	text(b, 10, y+16, bold, g.Title)
	y += titleHeight
	top := y
	for _, l := range g.Lanes {
		drawLane(b, l, scale, y)
		y += laneHeight + laneGap
	}
	scale.draw(b, top, y)
	return y + axisHeight
}

// drawLane puts outages over answers, and below both when two MACs answered.
func drawLane(b *strings.Builder, l lane, a axis, y int) {
	text(b, axisLeft-8, y+11, end, l.Name)
	for _, s := range l.Answers {
		a.bar(b, s, strip{y, laneHeight, colourOf(s.Who), fmt.Sprintf("%s answers %s", s.Who, period(s))})
	}
	for _, s := range l.Outages {
		a.bar(b, s, strip{y, laneHeight, outageColour, fmt.Sprintf("nobody answers %s", period(s))})
	}
	for _, s := range l.Contested {
		a.bar(b, s, strip{y + laneHeight, 3, contestedColour, fmt.Sprintf("two MACs answer %s", period(s))})
	}
	text(b, axisRight+8, y+11, start, l.Note)
}

// period is a bar in words.
func period(s bar) string {
	return fmt.Sprintf("%.3f–%.3f s", s.From.Seconds(), s.To.Seconds())
}

// axis maps time to pixels.
type axis struct{ from, to time.Duration }

// x stays on the axis whatever the time.
func (a axis) x(t time.Duration) float64 {
	if a.to <= a.from {
		return axisLeft
	}
	part := float64(t-a.from) / float64(a.to-a.from)
	return axisLeft + min(1, max(0, part))*(axisRight-axisLeft)
}

// strip is how a bar is drawn: its top edge and height, its colour, and what it
// says when pointed at.
type strip struct {
	y, height     int
	colour, title string
}

// bar is at least a pixel wide: what happened is seen.
func (a axis) bar(b *strings.Builder, s bar, how strip) {
	x := a.x(s.From)
	fmt.Fprintf(b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"><title>%s</title></rect>`+"\n",
		x, how.y, max(1, a.x(s.To)-x), how.height, how.colour, html.EscapeString(how.title))
}

// draw puts the moment of the fault and a scale of seconds under the lanes.
func (a axis) draw(b *strings.Builder, top, y int) {
	zero := a.x(0)
	fmt.Fprintf(b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#000000" stroke-dasharray="3,2"/>`+"\n", zero, top-3, zero, y)
	step := time.Second
	for (a.to-a.from)/step > 12 {
		step *= 2
	}
	for t := a.from.Truncate(step); t <= a.to; t += step {
		if t >= a.from {
			text(b, int(a.x(t)), y+9, middle, fmt.Sprintf("%d s", int(t.Seconds())))
		}
	}
}

// text writes s at a point; style is the element's further attributes.
func text(b *strings.Builder, x, y int, style, s string) {
	fmt.Fprintf(b, `<text x="%d" y="%d" %s>%s</text>`+"\n", x, y, style, html.EscapeString(s))
}

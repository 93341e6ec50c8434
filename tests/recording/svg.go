package recording

import (
	"errors"
	"fmt"
	"html"
	"io"
	"strconv"
	"strings"
	"time"
)

// The sizes of the picture, in pixels.
const (
	fontSize   = 14.0
	charWidth  = 8.4
	lineHeight = 19.0
	margin     = 16.0
	baseline   = 14.0 // below the top of the line
)

// The colors of the terminal. It has its own background, so that it is readable on light and dark
// pages.
const (
	background = "#0d1117"
	foreground = "#e6edf3"
	border     = "#30363d"
)

// lastPause is how long the last screen stays before the picture starts again.
const lastPause = 8 * time.Second

// Options say what the picture is.
type Options struct {
	Title, Description string
	// Static draws the last screen only.
	Static bool
}

// Draw draws the cast as an SVG without scripts. It moves through CSS: where that is not supported,
// or the reader prefers reduced motion, it shows the last screen.
func (c Cast) Draw(w io.Writer, o Options) error {
	screens, err := c.screens()
	if err != nil {
		return err
	}
	if len(screens) == 0 {
		return errors.New("draw the cast: it is empty")
	}
	if o.Static {
		screens = screens[len(screens)-1:]
		screens[0].from = 0
	}
	p := picture{columns: c.Columns, rows: usedRows(screens), length: screens[len(screens)-1].from + lastPause}
	p.addRows(spans(screens))
	p.addCursor(screens)
	if _, err := io.WriteString(w, p.svg(o)); err != nil {
		return fmt.Errorf("write the SVG: %w", err)
	}
	return nil
}

// usedRows returns the number of rows down to the last one with a text or the cursor.
func usedRows(screens []screen) int {
	used := 0
	for _, s := range screens {
		used = max(used, s.cursor.row+1)
		for row, line := range s.lines {
			if len(line) > 0 {
				used = max(used, row+1)
			}
		}
	}
	return used
}

// picture is an SVG under construction.
type picture struct {
	columns, rows int
	length        time.Duration // of one pass
	style, body   strings.Builder
	intervals     map[[2]time.Duration]string // the class of the animation, by the time it shows
}

// percent returns the time as a share of a pass, for keyframes.
func (p *picture) percent(at time.Duration) string {
	return number(100*at.Seconds()/p.length.Seconds()) + "%"
}

// number formats with three decimals at most: a millisecond of half a minute, or a thousandth of a
// pixel.
func number(f float64) string {
	return strings.TrimRight(strings.TrimRight(strconv.FormatFloat(f, 'f', 3, 64), "0"), ".")
}

func (p *picture) addRows(all []span) {
	for _, s := range all {
		var class []string
		if !s.isLast {
			class = append(class, "h")
		}
		if name := p.animation(s); name != "" {
			class = append(class, name)
		}
		fmt.Fprintf(&p.body, "<text%s>", attribute("class", strings.Join(class, " ")))
		y := number(margin + float64(s.row)*lineHeight + baseline)
		for _, r := range s.line {
			weight := ""
			if r.isBold {
				weight = "bold"
			}
			fmt.Fprintf(&p.body, `<tspan x="%s" y="%s" textLength="%s"%s%s>%s</tspan>`,
				number(margin+float64(r.column)*charWidth), y, number(float64(r.width)*charWidth),
				attribute("fill", r.color), attribute("font-weight", weight), html.EscapeString(r.text))
		}
		p.body.WriteString("</text>\n")
	}
}

// attribute returns the attribute, or nothing without a value.
func attribute(name, value string) string {
	if value == "" {
		return ""
	}
	return fmt.Sprintf(` %s="%s"`, name, value)
}

// animation returns the class that shows something in the time of the span, or nothing if it is
// always shown.
func (p *picture) animation(s span) string {
	if s.from == 0 && s.isLast {
		return ""
	}
	key := [2]time.Duration{s.from, s.to}
	if name, found := p.intervals[key]; found {
		return name
	}
	if p.intervals == nil {
		p.intervals = map[[2]time.Duration]string{}
	}
	name := fmt.Sprintf("a%d", len(p.intervals))
	p.intervals[key] = name
	const hidden, visible = "{visibility:hidden}", "{visibility:visible}"
	fmt.Fprintf(&p.style, "@keyframes %s{", name)
	if s.from > 0 {
		p.style.WriteString("0%" + hidden)
	}
	p.style.WriteString(p.percent(s.from) + visible)
	if !s.isLast {
		p.style.WriteString(p.percent(s.to) + hidden)
	}
	fmt.Fprintf(&p.style, "}\n.%s{animation:%s %s step-end infinite}\n", name, name, p.duration())
	return name
}

func (p *picture) duration() string { return number(p.length.Seconds()) + "s" }

// addCursor draws the cursor at its last position and moves it.
func (p *picture) addCursor(screens []screen) {
	last := screens[len(screens)-1].cursor
	fmt.Fprintf(&p.body, `<rect id="cursor" width="%s" height="%s" fill="%s" transform="translate(%s)"/>`+"\n",
		number(charWidth), number(lineHeight), foreground, strings.ReplaceAll(offset(last, ""), ",", " "))
	if len(screens) == 1 {
		return
	}
	p.style.WriteString("@keyframes cursor{0%{transform:translate(" + offset(position{}, "px") + ")}")
	before := position{}
	for _, s := range screens {
		if s.cursor != before {
			fmt.Fprintf(&p.style, "%s{transform:translate(%s)}", p.percent(s.from), offset(s.cursor, "px"))
			before = s.cursor
		}
	}
	fmt.Fprintf(&p.style, "}\n#cursor{animation:cursor %s step-end infinite}\n", p.duration())
}

// offset returns the place of a character.
func offset(at position, unit string) string {
	return number(margin+float64(at.column)*charWidth) + unit + "," + number(margin+float64(at.row)*lineHeight) + unit
}

func (p *picture) svg(o Options) string {
	width, height := number(2*margin+float64(p.columns)*charWidth), number(2*margin+float64(p.rows)*lineHeight)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%[1]s" height="%[2]s" viewBox="0 0 %[1]s %[2]s"`+
		` role="img" aria-labelledby="title desc">`+"\n", width, height)
	fmt.Fprintf(&b, "<title id=\"title\">%s</title>\n<desc id=\"desc\">%s</desc>\n",
		html.EscapeString(o.Title), html.EscapeString(o.Description))
	fmt.Fprintf(&b, "<style>\ntext{fill:%s;font:%spx ui-monospace,SFMono-Regular,Menlo,Consolas,"+
		"\"Liberation Mono\",\"DejaVu Sans Mono\",monospace}\n", foreground, number(fontSize))
	if p.style.Len() > 0 {
		b.WriteString(".h{visibility:hidden}\n" + p.style.String())
		b.WriteString("@media (prefers-reduced-motion:reduce){text,#cursor{animation:none!important}}\n")
	}
	fmt.Fprintf(&b, "</style>\n<rect x=\".5\" y=\".5\" width=\"%s\" height=\"%s\" rx=\"8\" fill=\"%s\" stroke=\"%s\"/>\n",
		number(2*margin+float64(p.columns)*charWidth-1), number(2*margin+float64(p.rows)*lineHeight-1),
		background, border)
	b.WriteString(p.body.String() + "</svg>\n")
	return b.String()
}

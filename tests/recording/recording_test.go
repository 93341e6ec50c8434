package recording

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/tests/must"
)

// startShell starts a shell on a terminal of 40 columns.
func startShell(t *testing.T) *Terminal {
	t.Helper()
	if _, err := os.Stat("/dev/ptmx"); err != nil {
		t.Skipf("this machine has no pseudo terminals: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return must.Value(Start(ctx, 40, 10, "sh", "-i"))(t)
}

// Programs see a terminal, and what they print is recorded with the commands.
func TestTerminalRecordsCommands(t *testing.T) {
	terminal := startShell(t)
	out := must.Value(terminal.Run(t.Context(), `test -t 1 && printf '\033[32m→ grün\033[0m\n'`, 0))(t)
	if want := "\x1b[32m→ grün\x1b[0m\r\n"; !strings.HasSuffix(out, want) {
		t.Errorf("got the output %q, want %q", out, want)
	}
	must.Value(terminal.Run(t.Context(), `printf '[--] 1 s'; sleep 0.2; printf '\r\033[Kdone\n'`, time.Millisecond))(t)
	// A character whose bytes arrive one after another.
	must.Value(terminal.Run(t.Context(), `printf '\342'; sleep 0.2; printf '\206\222 2\n'`, 0))(t)
	var file bytes.Buffer
	must.Succeed(t, must.Value(terminal.Close())(t).Write(&file))
	cast := must.Value(Read(&file))(t)
	text := must.Value(cast.Text())(t)
	for _, want := range []string{"\n→ grün\n$ printf", "\ndone\n$", "\n→ 2\n$"} {
		if !strings.Contains(text, want) {
			t.Errorf("the terminal does not show %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "\n[--]") {
		t.Errorf("the terminal still shows what was erased:\n%s", text)
	}
	if cast.Columns != 40 || cast.Rows != 10 {
		t.Errorf("got a terminal of %d × %d characters, want 40 × 10", cast.Columns, cast.Rows)
	}
}

func TestTerminalEndsItsWaits(t *testing.T) {
	terminal := startShell(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := terminal.Run(ctx, "sleep 60", 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a command that hangs: got %v, want the end of the context", err)
	}
	// A child outlives what was started, and has the terminal open.
	started, end := context.WithCancel(t.Context())
	terminal = must.Value(Start(started, 40, 10, "sh", "-c", "trap '' HUP; echo started; sleep 90; true"))(t)
	must.Value(terminal.await(t.Context(), func(text string) bool { return strings.Contains(text, "started") }))(t)
	end()
	select {
	case <-terminal.done:
	case <-time.After(time.Minute):
		t.Error("the terminal is open a minute after the end of its context")
	}
	terminal = startShell(t)
	const want = "the shell has ended"
	if _, err := terminal.Run(t.Context(), "exit", 0); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("exit: got %v, want %q", err, want)
	}
}

// A read of the terminal may end within a character.
func TestCompleteLength(t *testing.T) {
	for text, want := range map[string]int{"": 0, "ab": 2, "a→": 4, "a→"[:3]: 1, "a→"[:2]: 1, "a\xff": 2} {
		if got := completeLength([]byte(text)); got != want {
			t.Errorf("%q: got %d complete bytes, want %d", text, got, want)
		}
	}
}

// example is a growth as kubectl growvol shows it, shorter.
func example() Cast {
	return Cast{
		Columns: 30, Rows: 4, MaxPause: 2 * time.Second,
		Outputs: []Output{
			{0, "$ "},
			{500 * time.Millisecond, "go\r\n"},
			{600 * time.Millisecond, "\x1b[32mok\x1b[31m!\x1b[0m  <1 & 2>\r\n"},
			{700 * time.Millisecond, "[#-] half"},
			{900 * time.Millisecond, "\r\x1b[K"},
			{901 * time.Millisecond, "[##] all"},
			{20 * time.Second, "\r\x1b[K\x1b[1mgrown\x1b[0m\r\n$ "},
		},
	}
}

func TestCastIsReadBack(t *testing.T) {
	var b bytes.Buffer
	must.Succeed(t, example().Write(&b))
	if got := must.Value(Read(&b))(t); !reflect.DeepEqual(got, example()) {
		t.Errorf("got\n%v\nwant\n%v", got, example())
	}
	const valid = `{"version":2,"width":1,"height":1}`
	for _, broken := range []string{"", "{}", strings.Replace(valid, "2", "3", 1), valid + "\n[1,2]"} {
		if c, err := Read(strings.NewReader(broken)); err == nil {
			t.Errorf("%q: got %v, want an error", broken, c)
		}
	}
}

func TestScreens(t *testing.T) {
	screens := must.Value(example().screens())(t)
	var got []string
	for _, s := range screens {
		text := ""
		for _, line := range s.lines {
			text += textOf(line) + "|"
		}
		got = append(got, fmt.Sprintf("%s %s", s.from, text))
	}
	want := []string{
		"0s $||||",
		"500ms $ go||||",
		"600ms $ go|ok!  <1 & 2>|||",
		"700ms $ go|ok!  <1 & 2>|[#-] half||",
		"901ms $ go|ok!  <1 & 2>|[##] all||", // nobody sees the erased line
		"2.901s $ go|ok!  <1 & 2>|grown|$|",  // the pause is shortened
	}
	if !slices.Equal(got, want) {
		t.Errorf("got the screens\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	last := screens[len(screens)-1]
	wantLine := []run{{0, 2, "ok", "#3fb950", false}, {2, 1, "!", "#ff7b72", false}, {5, 7, "<1 & 2>", "", false}}
	if !slices.Equal(last.lines[1], wantLine) || last.lines[2][0] != (run{0, 5, "grown", "", true}) {
		t.Errorf("got the lines %v, want green and bold text", last.lines)
	}
	if want := (position{2, 3}); last.cursor != want {
		t.Errorf("got the cursor at %v, want %v", last.cursor, want)
	}
}

// What cannot be drawn is an error, not a wrong picture.
func TestScreensRefuseWhatIsNotDrawn(t *testing.T) {
	for text, want := range map[string]string{
		"\x1b[44mblue":  "only colors and bold text",
		"\x1b[7minvert": "only colors and bold text",
		"1\r\n2\r\n3":   "1 lines have left the screen of 2",
	} {
		c := Cast{Columns: 20, Rows: 2, Outputs: []Output{{0, text}}}
		if _, err := c.screens(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	if err := (Cast{Columns: 20, Rows: 2}).Draw(io.Discard, Options{}); err == nil {
		t.Error("got a picture of an empty cast")
	}
}

// svg is what the tests read of a picture.
type svg struct {
	Title string `xml:"title"`
	Desc  string `xml:"desc"`
	Style string `xml:"style"`
	Texts []struct {
		Class string `xml:"class,attr"`
		Spans []struct {
			X    float64 `xml:"x,attr"`
			Y    float64 `xml:"y,attr"`
			Fill string  `xml:"fill,attr"`
			Text string  `xml:",chardata"`
		} `xml:"tspan"`
	} `xml:"text"`
}

func draw(t *testing.T, c Cast, o Options) (svg, string) {
	t.Helper()
	var b bytes.Buffer
	must.Succeed(t, c.Draw(&b, o))
	var s svg
	must.Succeed(t, xml.Unmarshal(b.Bytes(), &s))
	return s, b.String()
}

// visible returns the texts that the picture shows at the time, by row, as a browser evaluates the
// style. Without a time the picture does not move.
func (s svg) visible(t *testing.T, at *time.Duration) map[int]string {
	t.Helper()
	rows := map[int]string{}
	for _, text := range s.Texts {
		show := true
		for class := range strings.FieldsSeq(text.Class) {
			switch {
			case class == "h":
				show = show && at != nil
			case at != nil:
				show = s.isShown(t, class, *at)
			}
		}
		for _, span := range text.Spans {
			row := int((span.Y - margin) / lineHeight)
			if show {
				rows[row] += fmt.Sprintf("%.0f:%s%s ", (span.X-margin)/charWidth, span.Text, span.Fill)
			}
		}
	}
	return rows
}

// isShown evaluates the keyframes of a class.
func (s svg) isShown(t *testing.T, class string, at time.Duration) bool {
	t.Helper()
	rule := strings.ReplaceAll(`\.CLASS\{animation:CLASS ([\d.]+)s step-end infinite\}`, "CLASS", class)
	animation := regexp.MustCompile(rule).FindStringSubmatch(s.Style)
	frames := regexp.MustCompile(`@keyframes ` + class + `\{(.*)\}`).FindStringSubmatch(s.Style)
	if animation == nil || frames == nil {
		t.Fatalf("the class %s has no animation", class)
	}
	length := must.Value(strconv.ParseFloat(animation[1], 64))(t)
	show := false
	for _, frame := range regexp.MustCompile(`([\d.]+)%\{visibility:(\w+)\}`).FindAllStringSubmatch(frames[1], -1) {
		if must.Value(strconv.ParseFloat(frame[1], 64))(t)/100*length <= at.Seconds()+0.001 {
			show = frame[2] == "visible"
		}
	}
	return show
}

// rowsOf returns a screen in the form of visible.
func rowsOf(s screen) map[int]string {
	rows := map[int]string{}
	for row, line := range s.lines {
		for _, r := range line {
			rows[row] += fmt.Sprintf("%d:%s%s ", r.column, r.text, r.color)
		}
	}
	return rows
}

// The picture shows each screen at its time, and the last one where nothing moves.
func TestDrawShowsEachScreen(t *testing.T) {
	picture, text := draw(t, example(), Options{Title: "a <b>", Description: "c & d"})
	screens := must.Value(example().screens())(t)
	for _, s := range screens {
		at := s.from
		if got, want := picture.visible(t, &at), rowsOf(s); !reflect.DeepEqual(got, want) {
			t.Errorf("after %s: got %v, want %v", at, got, want)
		}
	}
	last := rowsOf(screens[len(screens)-1])
	if got := picture.visible(t, nil); !reflect.DeepEqual(got, last) {
		t.Errorf("without motion: got %v, want %v", got, last)
	}
	if picture.Title != "a <b>" || picture.Desc != "c & d" {
		t.Errorf("got the title %q and the description %q", picture.Title, picture.Desc)
	}
	if !strings.Contains(text, "prefers-reduced-motion") || strings.Contains(text, "<script") {
		t.Errorf("got no rule for reduced motion, or a script: %s", text)
	}

	static, text := draw(t, example(), Options{Static: true})
	if got := static.visible(t, nil); !reflect.DeepEqual(got, last) {
		t.Errorf("static: got %v, want %v", got, last)
	}
	if strings.Contains(text, "animation") || strings.Contains(text, "keyframes") {
		t.Errorf("the static picture moves: %s", text)
	}
}

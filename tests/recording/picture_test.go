package recording

import (
	"bytes"
	"context"
	"flag"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/growvol/growvol/pkg/claim/expansion"
	"github.com/growvol/growvol/pkg/claim/table"
	"github.com/growvol/growvol/pkg/kubectlplugin"
	"github.com/growvol/growvol/tests/must"
)

// The tests of this file are of the recording that the README shows. `make recording` makes it in a
// real cluster; `go test ./tests/recording -update` only draws it again.
var update = flag.Bool("update", false, "write the pictures of the README")

const (
	castFile    = "testdata/expand.cast"
	movingFile  = "../../docs/images/kubectl-growvol-expand.svg"
	staticFile  = "../../docs/images/kubectl-growvol-expand-static.svg"
	maxPicture  = 150 << 10 // bytes
	title       = "kubectl growvol expand in a terminal"
	description = "kubectl growvol status shows the claim database with 1 GiB. kubectl growvol expand database 2Gi " +
		"prints six checks, each stage with its time, and that the claim has grown from 1 GiB to 2 GiB. " +
		"df in the pod and kubectl growvol status then show the larger filesystem."
)

func readRecording(t *testing.T) Cast {
	t.Helper()
	return must.Value(Read(bytes.NewReader(must.Value(os.ReadFile(castFile))(t))))(t)
}

// The pictures of the README are those of the recording.
func TestPicturesAreOfTheRecording(t *testing.T) {
	for file, options := range map[string]Options{
		movingFile: {Title: title, Description: description},
		staticFile: {Title: title, Description: description, Static: true},
	} {
		_, picture := draw(t, readRecording(t), options)
		if *update {
			must.Succeed(t, os.WriteFile(file, []byte(picture), 0o600))
		}
		if committed, err := os.ReadFile(file); err != nil || string(committed) != picture {
			t.Errorf("%s is not the picture of %s (%v; next step: go test ./tests/recording -update)", file, castFile, err)
		}
		if len(picture) > maxPicture {
			t.Errorf("%s has %d bytes, want %d at most", file, len(picture), maxPicture)
		}
		if path := regexp.MustCompile(`/(root|home|work|tmp|var|usr)/`).FindString(picture); path != "" {
			t.Errorf("%s contains a path of the machine that has recorded it: %s", file, path)
		}
	}
}

// The recording shows the commands, the columns and the stages that the code has now. `make
// cluster-test` compares its other lines with those of a real growth.
func TestRecordingShowsThePresentCode(t *testing.T) {
	text := must.Value(readRecording(t).Text())(t)
	commands := regexp.MustCompile(`(?m)^\$ kubectl growvol (\w+)`).FindAllStringSubmatch(text, -1)
	var names []string
	for _, c := range commands {
		names = append(names, c[1])
		var out bytes.Buffer
		streams := genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: io.Discard}
		if code := kubectlplugin.Run(context.WithoutCancel(t.Context()), []string{c[1], "--help"}, streams); code != 0 ||
			!strings.Contains(out.String(), "kubectl growvol "+c[1]+" ") {
			t.Errorf("kubectl growvol has no command %s", c[1])
		}
	}
	if want := []string{"status", "expand", "status"}; !slices.Equal(names, want) {
		t.Errorf("got the commands %v, want %v", names, want)
	}

	var header bytes.Buffer
	must.Succeed(t, table.PrintRows(&header, nil, table.Options{}))
	fields := strings.Join(strings.Fields(header.String()), " ")
	if !strings.Contains(strings.Join(strings.Fields(text), " "), fields) {
		t.Errorf("status has the columns %s, and the recording does not", fields)
	}

	var shown []string
	for _, line := range regexp.MustCompile(`(?m)^ +[\d.]+ s  database: (.*)$`).FindAllStringSubmatch(text, -1) {
		shown = append(shown, line[1])
	}
	var stages []string // of the code, without those that ended between two readings of the claim
	for s := expansion.StageRequested; s <= expansion.StageGrown; s++ {
		if slices.Contains(shown, s.String()) || s == expansion.StageGrown {
			stages = append(stages, s.String())
		}
	}
	if len(stages) < 2 || !slices.Equal(shown, stages) {
		t.Errorf("got the stages %q, want %q, and two at least", shown, stages)
	}
}

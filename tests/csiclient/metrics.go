package csiclient

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// ExpandPhases reads from the node plugin's metrics how long it has spent in each
// phase of successful expansions since it started.
func (d *Deployment) ExpandPhases(ctx context.Context) (map[string]time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.NodeHTTP+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // only read from
	phases := map[string]time.Duration{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		const prefix, suffix = `growvol_node_expand_phase_seconds_sum{phase="`, `",result="ok"} `
		rest, ok := strings.CutPrefix(lines.Text(), prefix)
		phase, value, found := strings.Cut(rest, suffix)
		if !ok || !found {
			continue
		}
		seconds, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
		phases[phase] = time.Duration(seconds * float64(time.Second))
	}
	return phases, lines.Err()
}

// FreeAddress returns a loopback address with a port that no process listens on.
func FreeAddress(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

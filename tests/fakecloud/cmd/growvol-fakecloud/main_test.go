package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestPrintsCloudThatAnswers(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"--servers=1"}, in, io.Discard) }()
	servers, address := 0, ""
	for lines := bufio.NewScanner(out); address == "" && lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "# server ") {
			servers++
		}
		if _, after, ok := strings.Cut(lines.Text(), "auth_url: "); ok {
			address = after
		}
	}
	if servers != 1 || address == "" {
		t.Fatalf("got %d servers and the auth_url %q, want 1 server and a URL", servers, address)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("Keystone answers %s, want 200 OK (%v)", resp.Status, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func TestRefusesUnknownFlag(t *testing.T) {
	if err := run(t.Context(), []string{"--color=red"}, io.Discard, io.Discard); err == nil {
		t.Fatal("an unknown flag is accepted")
	}
}

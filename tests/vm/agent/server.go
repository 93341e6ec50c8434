package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/tests/forward"
	"github.com/growvol/growvol/tests/vm/internal/protocol"
)

// serve serves the agent's two ports and watches the network, until one of them
// fails.
func serve() error {
	ctx := context.Background()
	failed := make(chan error, 3)
	warn := func(err error) { fmt.Fprintln(os.Stderr, "agent:", err) }
	go func() { failed <- watchNetwork(warn) }()
	requests, err := new(net.ListenConfig).Listen(ctx, "tcp", fmt.Sprintf(":%d", protocol.AgentPort))
	if err != nil {
		return err
	}
	node, err := new(net.ListenConfig).Listen(ctx, "tcp", fmt.Sprintf(":%d", protocol.NodePort))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler(newProcesses()), ReadHeaderTimeout: time.Minute}
	go func() { failed <- server.Serve(requests) }()
	go func() { failed <- forward.Serve(ctx, node, forward.To("unix", protocol.NodeSocket)) }()
	h, err := health()
	if err != nil {
		return err
	}
	fmt.Printf("%s kernel=%s uptime=%.2f\n", protocol.ReadyLine, h.Kernel, h.UptimeSeconds)
	return <-failed
}

// handler returns the handler of the agent's paths, see package protocol.
func handler(p *processes) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+protocol.PathHealth, func(w http.ResponseWriter, _ *http.Request) {
		h, err := health()
		reply(w, h, err)
	})
	mux.HandleFunc("POST "+protocol.PathRun, func(w http.ResponseWriter, r *http.Request) {
		c, err := decode[protocol.Command](r)
		if err != nil {
			reply(w, nil, err)
			return
		}
		reply(w, run(r.Context(), c), nil)
	})
	mux.HandleFunc("POST "+protocol.PathProcesses, func(w http.ResponseWriter, r *http.Request) {
		c, err := decode[protocol.Command](r)
		if err != nil {
			reply(w, nil, err)
			return
		}
		s, err := p.start(context.WithoutCancel(r.Context()), c)
		reply(w, s, err)
	})
	mux.HandleFunc("GET "+protocol.PathProcesses+"/{id}", func(w http.ResponseWriter, r *http.Request) {
		s, err := p.state(r.PathValue("id"))
		reply(w, s, err)
	})
	mux.HandleFunc("GET "+protocol.PathProcesses+"/{id}/log", func(w http.ResponseWriter, r *http.Request) {
		log, err := p.log(r.PathValue("id"))
		replyContent(w, log, err)
	})
	mux.HandleFunc("POST "+protocol.PathProcesses+"/{id}/signal", func(w http.ResponseWriter, r *http.Request) {
		s, err := decode[protocol.Signal](r)
		if err != nil {
			reply(w, nil, err)
			return
		}
		state, err := p.signal(r.PathValue("id"), unix.Signal(s.Number))
		reply(w, state, err)
	})
	mux.HandleFunc("GET "+protocol.PathFile, func(w http.ResponseWriter, r *http.Request) {
		content, err := os.ReadFile(r.FormValue("path"))
		replyContent(w, content, err)
	})
	mux.HandleFunc("PUT "+protocol.PathFile, func(w http.ResponseWriter, r *http.Request) {
		reply(w, struct{}{}, putFile(r))
	})
	return mux
}

// putFile writes the body to a file, which appears only when it is complete.
func putFile(r *http.Request) (err error) {
	path := r.URL.Query().Get("path")
	mode, err := strconv.ParseUint(r.URL.Query().Get("mode"), 8, 32)
	if err != nil {
		return fmt.Errorf("mode: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".put-")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r.Body)
	if err := errors.Join(err, f.Chmod(os.FileMode(mode)), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), path)
}

// decode decodes the body of a request.
func decode[T any](r *http.Request) (v T, err error) {
	err = json.NewDecoder(r.Body).Decode(&v)
	return v, err
}

// reply sends the value as JSON, or the error: status 404 for os.ErrNotExist and
// 500 for all others.
func reply(w http.ResponseWriter, v any, err error) {
	if err != nil {
		replyContent(w, nil, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // fails only when the client is gone
}

// replyContent is reply for a body that is not JSON.
func replyContent(w http.ResponseWriter, content []byte, err error) {
	switch {
	case errors.Is(err, os.ErrNotExist):
		http.Error(w, err.Error(), http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		_, _ = w.Write(content) // fails only when the client is gone
	}
}

// health returns the kernel's version and the uptime.
func health() (protocol.Health, error) {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return protocol.Health{}, err
	}
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return protocol.Health{}, err
	}
	first, _, _ := strings.Cut(string(text), " ")
	uptime, err := strconv.ParseFloat(first, 64)
	return protocol.Health{Kernel: strings.TrimSpace(string(release)), UptimeSeconds: uptime}, err
}

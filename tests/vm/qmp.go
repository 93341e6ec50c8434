package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
)

// monitor speaks QMP, QEMU's control protocol: one JSON object each for a
// command, its answer, and events in between (QEMU Machine Protocol
// Specification 0.1).
type monitor struct {
	conn    net.Conn
	encoder *json.Encoder
	idle    chan struct{} // holds one token: commands are answered in order
	answers chan message
	done    chan struct{} // closed when the connection has ended
	err     error         // why, set before done is closed

	mu        sync.Mutex
	deletions map[string]chan struct{} // devices whose DEVICE_DELETED is awaited
}

// message is anything QEMU sends.
type message struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Description string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
	Data  struct {
		Device string `json:"device"`
	} `json:"data"`
	Greeting json.RawMessage `json:"QMP"`
}

// newMonitor takes over the connection and enters command mode.
func newMonitor(ctx context.Context, conn net.Conn) (*monitor, error) {
	m := &monitor{
		conn: conn, encoder: json.NewEncoder(conn), idle: make(chan struct{}, 1), answers: make(chan message),
		done: make(chan struct{}), deletions: map[string]chan struct{}{},
	}
	m.idle <- struct{}{}
	go m.receive()
	_, err := m.execute(ctx, "qmp_capabilities", nil)
	return m, err
}

func (m *monitor) receive() {
	defer close(m.done)
	decoder := json.NewDecoder(m.conn)
	for {
		var msg message
		if err := decoder.Decode(&msg); err != nil {
			m.err = fmt.Errorf("QEMU's monitor is gone: %w", err)
			return
		}
		switch {
		case msg.Greeting != nil:
		case msg.Event != "":
			m.handleEvent(msg)
		default:
			m.answers <- msg
		}
	}
}

// handleEvent looks for the one event that is waited for.
func (m *monitor) handleEvent(msg message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if waiting, ok := m.deletions[msg.Data.Device]; ok && msg.Event == "DEVICE_DELETED" {
		close(waiting)
		delete(m.deletions, msg.Data.Device)
	}
}

// awaitDeletion returns a channel that is closed once the guest has let go of the
// device.
func (m *monitor) awaitDeletion(device string) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	waiting, ok := m.deletions[device]
	if !ok {
		waiting = make(chan struct{})
		m.deletions[device] = waiting
	}
	return waiting
}

// execute runs one command and returns what it answered.
func (m *monitor) execute(ctx context.Context, command string, arguments map[string]any) (json.RawMessage, error) {
	select {
	case <-m.idle:
	case <-ctx.Done():
		return nil, fmt.Errorf("QMP %s: %w", command, ctx.Err())
	}
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	if err := m.encoder.Encode(request); err != nil {
		m.idle <- struct{}{}
		return nil, fmt.Errorf("QMP %s: %w", command, err)
	}
	select {
	case msg := <-m.answers:
		m.idle <- struct{}{}
		if msg.Error != nil {
			return nil, fmt.Errorf("QMP %s: %s", command, msg.Error.Description)
		}
		return msg.Return, nil
	case <-m.done:
		m.idle <- struct{}{}
		return nil, fmt.Errorf("QMP %s: %w", command, m.err)
	case <-ctx.Done():
		// The answer is still to come and must not be taken for another's: the
		// next command gets its turn after it.
		go func() {
			select {
			case <-m.answers:
			case <-m.done:
			}
			m.idle <- struct{}{}
		}()
		return nil, fmt.Errorf("QMP %s: %w", command, ctx.Err())
	}
}

// freeSlots returns the slots of the machine's one PCI bus that have nothing
// in them.
func (m *monitor) freeSlots(ctx context.Context) ([]int, error) {
	const slots = 32
	answer, err := m.execute(ctx, "query-pci", nil)
	if err != nil {
		return nil, err
	}
	var buses []struct {
		Devices []struct{ Slot int }
	}
	if err := json.Unmarshal(answer, &buses); err != nil {
		return nil, err
	}
	taken := map[int]bool{}
	for _, b := range buses {
		for _, d := range b.Devices {
			taken[d.Slot] = true
		}
	}
	var free []int
	for s := range slots {
		if !taken[s] {
			free = append(free, s)
		}
	}
	return free, nil
}

// executeHuman runs a command of the monitor that is made for people.
func (m *monitor) executeHuman(ctx context.Context, line string) (string, error) {
	answer, err := m.execute(ctx, "human-monitor-command", map[string]any{"command-line": line})
	if err != nil {
		return "", err
	}
	var text string
	return text, json.Unmarshal(answer, &text)
}

// close ends the connection and waits until nothing reads from it any more.
func (m *monitor) close() error {
	err := m.conn.Close()
	for {
		select {
		case <-m.done:
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		case <-m.answers:
		}
	}
}

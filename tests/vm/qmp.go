package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
)

// monitor is a client of QMP, QEMU's control protocol (QEMU Machine Protocol
// Specification). A command, its answer and an event are one JSON object each.
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

// newMonitor returns a monitor on the connection, in command mode.
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

// receive passes on answers and events until the connection ends.
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

// handleEvent closes the channel of awaitDeletion at DEVICE_DELETED. Other events
// have no effect.
func (m *monitor) handleEvent(msg message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if deleted, found := m.deletions[msg.Data.Device]; found && msg.Event == "DEVICE_DELETED" {
		close(deleted)
		delete(m.deletions, msg.Data.Device)
	}
}

// awaitDeletion returns a channel that is closed when the guest has released the
// device.
func (m *monitor) awaitDeletion(device string) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	deleted, found := m.deletions[device]
	if !found {
		deleted = make(chan struct{})
		m.deletions[device] = deleted
	}
	return deleted
}

// execute executes one command and returns its answer.
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
		// The answer is still to come and must not be taken for that of the next command,
		// which waits for idle.
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

// freeSlots returns the slots of the machine's only PCI bus that have no device.
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
	used := map[int]bool{}
	for _, b := range buses {
		for _, d := range b.Devices {
			used[d.Slot] = true
		}
	}
	var free []int
	for s := range slots {
		if !used[s] {
			free = append(free, s)
		}
	}
	return free, nil
}

// executeHuman executes a command of the human monitor and returns its text.
func (m *monitor) executeHuman(ctx context.Context, line string) (string, error) {
	answer, err := m.execute(ctx, "human-monitor-command", map[string]any{"command-line": line})
	if err != nil {
		return "", err
	}
	var text string
	return text, json.Unmarshal(answer, &text)
}

// close closes the connection and waits until receive has ended.
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

package node

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/node/internal/inspect"
	"github.com/growvol/growvol/pkg/volume"
)

// lockedRand is a source of random numbers that is safe for concurrent use.
type lockedRand struct {
	mu sync.Mutex
	r  *rand.Rand
}

func newLockedRand(seed uint64) *lockedRand {
	return &lockedRand{r: rand.New(rand.NewPCG(seed, seed^0x9e3779b97f4a7c15))}
}

// intN returns a number below limit.
func (d *lockedRand) intN(limit int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.IntN(limit)
}

func (d *lockedRand) oneIn(n int) bool { return d.intN(n) == 0 }

// between returns a duration from minimum to below maximum.
func (d *lockedRand) between(minimum, maximum time.Duration) time.Duration {
	return minimum + time.Duration(d.intN(int(maximum-minimum)))
}

// process is the process of a node plugin on a machine. Its calls take time, some fail, some lose
// their answers, and some hang for minutes. After a crash none of its calls succeeds: they return
// when their callers give up, or at the end of the test.
type process struct {
	*machine
	dice    *lockedRand
	foreign func(filesystem.Mount) bool // reports whether a mount is foreign and must not be touched
	crashed chan struct{}
	end     <-chan struct{}

	mu         sync.Mutex
	faultsOff  bool // no call fails any more
	handles    []fakeHandle
	violations []string // what it must never do, but has done
}

var errCrashed = errors.New("the process has crashed")

// simulateCall makes a call take some time, and fail now and then. ctx ends the call; nil: nothing
// does.
func (p *process) simulateCall(ctx context.Context) error {
	p.mu.Lock()
	calm := p.faultsOff
	p.mu.Unlock()
	took := p.dice.between(0, 20*time.Millisecond)
	if !calm && p.dice.oneIn(60) {
		took = p.dice.between(time.Second, 4*time.Minute)
	}
	if ctx == nil {
		ctx = context.Background()
	}
	timer := time.NewTimer(took)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-p.crashed:
	}
	select {
	case <-p.crashed:
		select { // its callers give up
		case <-p.end:
		case <-ctx.Done():
		}
		return errCrashed
	default:
	}
	if err := checkInTime(ctx, "a call"); err != nil {
		return err
	}
	if !calm && p.dice.oneIn(30) {
		return volume.Errorf(volume.KindDeadline, "the device did not answer")
	}
	return nil
}

// loseAnswer replaces the answer of some successful calls by an error.
func (p *process) loseAnswer(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil && !p.faultsOff && p.dice.oneIn(40) {
		return volume.Errorf(volume.KindDeadline, "the answer is lost")
	}
	return err
}

func (p *process) addViolation(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.violations = append(p.violations, what)
}

// crash ends the process: the kernel closes what it had open.
func (p *process) crash() {
	close(p.crashed)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.handles {
		_ = h.Close()
	}
}

func (p *process) hasCrashed() bool {
	select {
	case <-p.crashed:
		return true
	default:
		return false
	}
}

// The connector, the devices and the filesystems as the process sees them.
type (
	processConnector struct {
		fakeConnector

		p *process
	}
	processDevices struct {
		fakeDevices

		p *process
	}
	processFilesystems struct {
		fakeFilesystems

		p *process
	}
)

func (c processConnector) Connect(ctx context.Context, req volume.ConnectRequest) (volume.Connection, error) {
	if err := c.p.simulateCall(ctx); err != nil {
		return volume.Connection{}, err
	}
	conn, err := c.fakeConnector.Connect(ctx, req)
	if err = c.p.loseAnswer(err); err != nil {
		conn = volume.Connection{}
	}
	return conn, err
}

func (c processConnector) Disconnect(ctx context.Context, id string) error {
	if err := c.p.simulateCall(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	if d := c.disks[id]; d != nil && d.connected && !d.staysPlugged {
		if path, used := c.findUser(d, diskNumberOf(d)); used {
			c.p.addViolation(id + " is disconnected while it is in use at " + path)
		}
	}
	c.mu.Unlock()
	return c.p.loseAnswer(c.fakeConnector.Disconnect(ctx, id))
}

func (c processConnector) Locate(ctx context.Context, id string) (volume.Connection, bool, error) {
	if err := c.p.simulateCall(ctx); err != nil {
		return volume.Connection{}, false, err
	}
	return c.fakeConnector.Locate(ctx, id)
}

func (c processConnector) Verify(ctx context.Context, id, path string) error {
	if err := c.p.simulateCall(ctx); err != nil {
		return err
	}
	c.p.mu.Lock()
	calm := c.p.faultsOff
	c.p.mu.Unlock()
	kinds := []volume.Kind{volume.KindInternal, volume.KindUnavailable, volume.KindNotFound}
	if !calm && c.p.dice.oneIn(30) {
		return volume.Errorf(kinds[c.p.dice.intN(len(kinds))], "nothing is proved")
	}
	return c.fakeConnector.Verify(ctx, id, path)
}

func (d processDevices) Open(ctx context.Context, dev blockdev.Device) (inspect.OpenDevice, error) {
	if err := d.p.simulateCall(ctx); err != nil {
		return nil, err
	}
	o, err := d.fakeDevices.Open(ctx, dev)
	if err != nil {
		return nil, err
	}
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	h, _ := o.(fakeHandle)
	if d.p.hasCrashed() {
		_ = h.Close()
		return nil, errCrashed
	}
	d.p.handles = append(d.p.handles, h)
	return o, nil
}

func (d processDevices) Size(dev blockdev.Device) (volume.Size, error) {
	if err := d.p.simulateCall(nil); err != nil { //nolint:staticcheck // nothing ends it
		return 0, err
	}
	return d.fakeDevices.Size(dev)
}

func (d processDevices) AwaitSize(ctx context.Context, dev blockdev.Device, want volume.Size) (volume.Size, error) {
	if err := d.p.simulateCall(ctx); err != nil {
		return 0, err
	}
	return d.fakeDevices.AwaitSize(ctx, dev, want)
}

func (f processFilesystems) Probe(ctx context.Context, dev filesystem.Device) (filesystem.Signature, error) {
	if err := f.p.simulateCall(ctx); err != nil {
		return filesystem.Signature{}, err
	}
	return f.fakeFilesystems.Probe(ctx, dev)
}

// Format leaves a filesystem half made, and its marker, when the process ends
// before the format is complete.
func (f processFilesystems) Format(ctx context.Context, req filesystem.FormatRequest) error {
	f.mu.Lock()
	d, err := f.diskOf(req.Device)
	blank := func(sig filesystem.Signature) bool {
		return sig.State == filesystem.StateBlank || req.IsEncrypted && sig.IsRandom
	}
	if err == nil && blank(d.contentOf(req.Device.Number())) {
		if path, used := f.findUser(d, req.Device.Number()); used {
			f.p.addViolation(d.path + " is formatted while it is in use at " + path)
		}
		err = os.WriteFile(req.Marker, nil, 0o600)
		d.content = filesystem.Signature{
			State: filesystem.StateFormatted, Type: req.Type, Size: d.sizeOf(req.Device.Number()),
		}
	}
	f.mu.Unlock()
	if err != nil {
		return err
	}
	if err := f.p.simulateCall(ctx); err != nil {
		return err
	}
	return f.p.loseAnswer(f.fakeFilesystems.Format(ctx, req))
}

func (f processFilesystems) Check(ctx context.Context, dev filesystem.Device, t filesystem.Type) error {
	if err := f.p.simulateCall(ctx); err != nil {
		return err
	}
	return f.fakeFilesystems.Check(ctx, dev, t)
}

func (f processFilesystems) Mount(ctx context.Context, req filesystem.MountRequest) error {
	if err := f.p.simulateCall(ctx); err != nil {
		return err
	}
	return f.p.loseAnswer(f.fakeFilesystems.Mount(ctx, req))
}

func (f processFilesystems) Bind(ctx context.Context, req filesystem.BindRequest) error {
	if err := f.p.simulateCall(ctx); err != nil {
		return err
	}
	return f.p.loseAnswer(f.fakeFilesystems.Bind(ctx, req))
}

func (f processFilesystems) Unmount(ctx context.Context, m filesystem.Mount) error {
	if err := f.p.simulateCall(ctx); err != nil {
		return err
	}
	if f.p.foreign(m) {
		f.p.addViolation("the foreign mount at " + m.MountPoint + " is unmounted")
	}
	return f.p.loseAnswer(f.fakeFilesystems.Unmount(ctx, m))
}

func (f processFilesystems) FindMount(path string) (filesystem.Mount, bool, error) {
	if err := f.p.simulateCall(nil); err != nil { //nolint:staticcheck // nothing ends it
		return filesystem.Mount{}, false, err
	}
	return f.fakeFilesystems.FindMount(path)
}

func (f processFilesystems) MountsOf(ctx context.Context, number blockdev.DeviceNumber) ([]filesystem.Mount, error) {
	if err := f.p.simulateCall(ctx); err != nil {
		return nil, err
	}
	return f.fakeFilesystems.MountsOf(ctx, number)
}

func (f processFilesystems) Grow(ctx context.Context, req filesystem.GrowRequest) (filesystem.Growth, error) {
	if err := f.p.simulateCall(nil); err != nil { //nolint:staticcheck // nothing ends it
		return filesystem.Growth{}, err
	}
	g, err := f.fakeFilesystems.Grow(ctx, req)
	return g, f.p.loseAnswer(err)
}

func (f processFilesystems) CheckHealth(ctx context.Context, dev filesystem.Device, path string) error {
	if err := f.p.simulateCall(ctx); err != nil {
		return err
	}
	return f.fakeFilesystems.CheckHealth(ctx, dev, path)
}

func (f processFilesystems) Measure(
	ctx context.Context, dev filesystem.Device, path string,
) (filesystem.Measurement, error) {
	if err := f.p.simulateCall(ctx); err != nil {
		return filesystem.Measurement{}, err
	}
	return f.fakeFilesystems.Measure(ctx, dev, path)
}

func (f processFilesystems) ReadUsage(m filesystem.Mount) (filesystem.Usage, error) {
	if err := f.p.simulateCall(nil); err != nil { //nolint:staticcheck // nothing ends it
		return filesystem.Usage{}, err
	}
	if f.p.foreign(m) {
		f.p.addViolation("the foreign filesystem at " + m.MountPoint + " is counted")
	}
	return f.fakeFilesystems.ReadUsage(m)
}

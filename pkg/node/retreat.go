package node

import (
	"context"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// retreatTimeout bounds the disconnection of a volume that could not be staged;
// it is less than DefaultAnswerMargin.
const retreatTimeout = 2 * time.Second

// retreat takes back what a staging that has failed has mounted, opened and
// recorded, and disconnects the volume, if it was this call that connected it:
// otherwise it may be staged as a raw device. After an error that it takes for
// final, kubelet never unstages, and a volume that stays connected could not be
// detached ever again. What is in use stays, and so does what work that outlives
// the call needs.
func (st *stage) retreat(ctx context.Context, cause error) {
	if !st.lease.Held() || !st.ours && !st.opened && passes(cause) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), retreatTimeout)
	defer cancel()
	err := st.undo(ctx, cause)
	if err != nil && !volume.IsKind(err, volume.NotFound) {
		st.log.WarnContext(ctx, "a volume that could not be staged stays connected", "volume", st.id, "error", err)
	}
}

func (st *stage) undo(ctx context.Context, cause error) error {
	if st.vol != nil {
		st.vol.release()
	}
	if !st.ours && !st.mountedHere && !st.opened {
		return st.restoreRecord()
	}
	unlock, err := st.lock.lockPublish(ctx)
	if err != nil {
		return err
	}
	st.lease.And(unlock) // an unmount or a closing that outlives this keeps it
	if st.mountedHere {
		if passes(cause) {
			return nil // kubelet tries again, and the mount is of use then
		}
		if err := st.unmount(ctx, st.id, st.path, st.lease); err != nil {
			return err
		}
	}
	if st.ours || st.opened {
		if err := st.takeDown(ctx); err != nil {
			return err
		}
	}
	if st.ours || passes(cause) {
		return nil
	}
	return st.restoreRecord()
}

// takeDown closes the mapping and disconnects the volume, each if it was this
// call that opened or connected it. Without the disk there is no record either.
func (st *stage) takeDown(ctx context.Context) error {
	conn, connected, err := st.opts.Connector.Locate(ctx, st.id)
	if err != nil || !connected {
		return err
	}
	if err := st.unused(ctx, st.id, conn.Path); err != nil {
		return err
	}
	if st.opened {
		if err := st.closeMapping(ctx, st.id, st.lease); err != nil {
			return err
		}
	}
	if !st.ours {
		return nil
	}
	if err := st.opts.Connector.Disconnect(ctx, st.id); err != nil {
		return err
	}
	return st.removeRecord(st.id)
}

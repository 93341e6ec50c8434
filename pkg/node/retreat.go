package node

import (
	"context"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/volume"
)

// rollbackTimeout bounds what retreat does after a failure. The margin before the
// caller's deadline leaves room for it and for the answer; see retreatContext.
const rollbackTimeout = 2 * time.Second

// withRollbackTimeout returns a context for retreat: of its own, because the call's
// may have ended, but it ends before the deadline of the caller, who is still to
// get the answer.
func withRollbackTimeout(call context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(call), rollbackTimeout)
	deadline, ok := call.Deadline()
	if !ok {
		return ctx, cancel
	}
	bounded, stop := context.WithDeadline(ctx, deadline)
	ahead, end := operation.WithMargin(bounded, rollbackTimeout/4, 4)
	return ahead, func() { end(); stop(); cancel() }
}

// rollBack takes back what a staging that has failed has mounted, opened and
// recorded, and disconnects the volume, if it was this call that connected it:
// otherwise it may be staged as a raw device. After an error that it takes for
// final, kubelet never unstages, and a volume that stays connected could not be
// detached ever again. What is in use stays, and so does what work that outlives
// the call needs. call is the context of the RPC, without margin.
func (st *stageCall) rollBack(call context.Context, cause error) {
	if !st.lease.IsHeld() {
		return
	}
	ctx, cancel := withRollbackTimeout(call)
	defer cancel()
	err := st.undoSteps(ctx, cause)
	if err != nil && !volume.IsKind(err, volume.KindNotFound) {
		st.log.WarnContext(ctx, "a volume that could not be staged stays connected", "volume", st.id, "error", err)
	}
}

func (st *stageCall) undoSteps(ctx context.Context, cause error) error {
	if st.vol != nil {
		st.vol.release()
	}
	if st.mountedHere && isTransient(cause) {
		return nil // kubelet tries again, and the mount is of use then
	}
	if !st.connectedHere && !st.mountedHere && !st.mappingOpenedHere {
		return st.restoreRecord(cause)
	}
	unlock, err := st.lock.lockPublish(ctx)
	if err != nil {
		return err
	}
	st.lease.Add(unlock) // an unmount or a closing that outlives this keeps it
	if st.mountedHere {
		if err := st.unmountAll(ctx, st.id, st.path, st.lease); err != nil {
			return err
		}
	}
	if st.connectedHere || st.mappingOpenedHere {
		if err := st.disconnect(ctx); err != nil {
			return err
		}
	}
	if st.connectedHere {
		return nil // without the disk there is no record
	}
	return st.restoreRecord(cause)
}

// disconnect closes the mapping and disconnects the volume, each if it was this
// call that opened or connected it. Without the disk there is no record either.
func (st *stageCall) disconnect(ctx context.Context) error {
	conn, connected, err := st.opts.Connector.Locate(ctx, st.id)
	if err != nil || !connected {
		return err
	}
	if err := st.checkUnused(ctx, st.id, conn.Path); err != nil {
		return err
	}
	if st.mappingOpenedHere {
		if err := st.closeMapping(ctx, st.id, conn.Path, st.lease); err != nil {
			return err
		}
	}
	if !st.connectedHere {
		return nil
	}
	if err := st.opts.Connector.Disconnect(ctx, st.id); err != nil {
		return err
	}
	return st.removeRecord(st.id)
}

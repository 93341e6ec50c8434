package node

import (
	"context"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// rollbackTimeout bounds rollBack.
const rollbackTimeout = 2 * time.Second

// withRollbackTimeout returns a context for rollBack. It does not end with the call's waits, which
// can have failed by their timeout, but it ends early enough before the deadline of the RPC to
// answer.
func withRollbackTimeout(rpcCtx context.Context) (context.Context, context.CancelFunc) {
	timeout := rollbackTimeout
	if deadline, ok := rpcCtx.Deadline(); ok {
		timeout = min(timeout, time.Until(deadline)) * 3 / 4
	}
	return context.WithTimeout(context.WithoutCancel(rpcCtx), timeout)
}

// rollBack undoes what a failed stage has mounted, opened, recorded and connected. kubelet never
// unstages after an error that it treats as final, and a volume that stays connected can never be
// detached. It leaves what is in use or what detached work of this call needs, and a volume that
// was connected before this call, which might be staged as a raw device. rpcCtx ends
// later than the context of the waits.
func (st *stageCall) rollBack(rpcCtx context.Context, cause error) {
	if !st.lease.IsHeld() {
		return
	}
	ctx, cancel := withRollbackTimeout(rpcCtx)
	defer cancel()
	if err := st.undo(ctx, cause); err != nil && !volume.IsKind(err, volume.KindNotFound) {
		st.log.WarnContext(ctx, "a volume that could not be staged stays connected", "volume", st.id, "error", err)
	}
}

func (st *stageCall) undo(ctx context.Context, cause error) error {
	if st.vol != nil {
		st.vol.Release()
	}
	if st.mountedHere && isTransient(cause) {
		return nil // the retry uses the mount
	}
	if !st.connectedHere && !st.mountedHere && !st.mappingOpenedHere {
		return st.restoreRecord(cause)
	}
	publish, err := st.lockPublish(ctx, st.id)
	if err != nil {
		return err
	}
	st.lease.Add(publish.Release) // detached work keeps the lock
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
		return nil // disconnect has removed the record
	}
	return st.restoreRecord(cause)
}

// disconnect closes the mapping if this call has opened it, and disconnects the volume and removes
// its record if this call has connected it.
func (st *stageCall) disconnect(ctx context.Context) error {
	conn, connected, err := st.opts.Connector.Locate(ctx, st.id)
	if err != nil || !connected {
		return err
	}
	if _, err := st.checkUnused(ctx, st.id, conn.Path); err != nil {
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
	return st.records.Remove(st.id)
}

// restoreRecord undoes writeRecord, unless the volume was mounted before this call as requested:
// then the new record is right. Without a previous record it keeps the new one for the retry if the
// failure is transient.
func (st *stageCall) restoreRecord(cause error) error {
	switch {
	case !st.isRecorded, st.wasMounted:
		return nil
	case st.previousRecord.ID != "":
		return st.records.Write(st.previousRecord)
	case isTransient(cause):
		return nil
	}
	return st.records.Remove(st.id)
}

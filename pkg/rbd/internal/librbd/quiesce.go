//go:build ceph

package librbd

/*
#cgo LDFLAGS: -lrbd -lrados -lpthread
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <rbd/librbd.h>

// watch counts the calls of one quiesce watcher. librbd calls on its own threads.
typedef struct {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	int quiesces; // not yet taken by watch_next
	int ended;
} watch_t;

static void watch_quiesce(void *arg) {
	watch_t *w = arg;
	pthread_mutex_lock(&w->mutex);
	w->quiesces++;
	pthread_cond_broadcast(&w->changed);
	pthread_mutex_unlock(&w->mutex);
}

static void watch_unquiesce(void *arg) {}

static watch_t *watch_new(void) {
	watch_t *w = calloc(1, sizeof(*w));
	pthread_mutex_init(&w->mutex, NULL);
	pthread_cond_init(&w->changed, NULL);
	return w;
}

static void watch_free(watch_t *w) {
	pthread_cond_destroy(&w->changed);
	pthread_mutex_destroy(&w->mutex);
	free(w);
}

static void watch_end(watch_t *w) {
	pthread_mutex_lock(&w->mutex);
	w->ended = 1;
	pthread_cond_broadcast(&w->changed);
	pthread_mutex_unlock(&w->mutex);
}

// watch_next waits for the next call; 0: watch_end was called.
static int watch_next(watch_t *w) {
	pthread_mutex_lock(&w->mutex);
	while (w->quiesces == 0 && !w->ended)
		pthread_cond_wait(&w->changed, &w->mutex);
	int found = w->quiesces > 0;
	if (found)
		w->quiesces--;
	pthread_mutex_unlock(&w->mutex);
	return found;
}

static int watch_register(rbd_image_t image, watch_t *w, uint64_t *handle) {
	return rbd_quiesce_watch(image, watch_quiesce, watch_unquiesce, w, handle);
}

static int no_progress(uint64_t offset, uint64_t total, void *arg) { return 0; }

static int create_snapshot(rbd_image_t image, const char *name) {
	return rbd_snap_create2(image, name, 0, no_progress, NULL);
}
*/
import "C"

import (
	"fmt"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// This file holds snapshots for which other clients wait. go-ceph has no functions for that.
//
// librbd takes the lock before it creates a snapshot, and then asks all quiesce watchers of the
// image to become quiet (librbd/operation/SnapshotCreateRequest.cc). The watcher here is this
// program itself: while it has not answered, the creation goes on, and librbd gives the lock to
// nobody before the operations that it runs have ended (exclusive_lock/PreReleaseRequest.cc). It
// acknowledges requests for the lock meanwhile, so that the kernel's client waits.

// image implements the optional interface, too.
var _ ceph.Quiescer = (*image)(nil)

// CreateQuiescedSnapshot implements ceph.Quiescer. It opens the image for itself.
func (i *image) CreateQuiescedSnapshot(name string, quiesced func() error) error {
	info, err := i.Info()
	if err != nil {
		return err
	}
	if !slices.Contains(info.Features, "exclusive-lock") {
		return wrap(unix.EINVAL, "take snapshot %s@%s: the image lacks the feature exclusive-lock", i, name)
	}
	id := C.CString(i.id)
	defer C.free(unsafe.Pointer(id))
	var opened C.rbd_image_t
	if r := C.rbd_open_by_id(C.rados_ioctx_t(i.pool.io.Pointer()), id, &opened, nil); r < 0 {
		return wrap(unix.Errno(-r), "open image %s", i)
	}
	err = i.createQuiesced(opened, name, quiesced)
	if r := C.rbd_close(opened); r < 0 && err == nil {
		return wrap(unix.Errno(-r), "close image %s", i)
	}
	return err
}

func (i *image) createQuiesced(opened C.rbd_image_t, name string, quiesced func() error) error {
	watch := C.watch_new()
	defer C.watch_free(watch)
	var handle C.uint64_t
	if r := C.watch_register(opened, watch, &handle); r < 0 {
		return wrap(unix.Errno(-r), "watch image %s", i)
	}
	failure := make(chan error, 1)
	go func() { failure <- answerQuiesces(opened, watch, handle, quiesced) }()
	snapshot := C.CString(name)
	defer C.free(unsafe.Pointer(snapshot))
	created := C.create_snapshot(opened, snapshot)
	// After it no call of the watcher begins.
	unwatched := C.rbd_quiesce_unwatch(opened, handle)
	C.watch_end(watch)
	err := <-failure
	switch {
	case created < 0 && err != nil:
		return err
	case created < 0:
		return wrap(unix.Errno(-created), "take snapshot %s@%s", i, name)
	case unwatched < 0:
		return wrap(unix.Errno(-unwatched), "end the watch of image %s", i)
	}
	return err
}

// answerQuiesces calls quiesced once, when librbd asks for quiet, and answers with its result. It
// returns that result; EBUSY: librbd never asked. If this client does not hold the lock, librbd
// asks for the snapshot of another program, which gets its quiet.
func answerQuiesces(opened C.rbd_image_t, watch *C.watch_t, handle C.uint64_t, quiesced func() error) error {
	err, isCalled := error(unix.EBUSY), false
	for C.watch_next(watch) != 0 {
		answer := C.int(0)
		var isOwner C.int
		if r := C.rbd_is_exclusive_lock_owner(opened, &isOwner); r == 0 && isOwner != 0 {
			if !isCalled {
				err, isCalled = quiesced(), true
			}
			if err != nil {
				answer = -C.ECANCELED
			}
		}
		C.rbd_quiesce_complete(opened, handle, answer)
	}
	return err
}

// SilentClients implements ceph.Quiescer. An empty notification is the oldest one of RBD: the
// header has changed (Linux, drivers/block/rbd.c, rbd_watch_cb; librbd/watcher/Notifier).
func (i *image) SilentClients(timeout time.Duration) ([]string, error) {
	_, timeouts, err := i.pool.io.NotifyWithTimeout(headerObject(i.id), nil, timeout)
	var silent []string
	for _, t := range timeouts {
		silent = append(silent, fmt.Sprintf("client.%d", t.NotifierID))
	}
	if len(silent) > 0 {
		return silent, nil // err says that there are some
	}
	return nil, wrap(err, "notify the clients of image %s", i)
}

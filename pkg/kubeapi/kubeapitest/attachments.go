package kubeapitest

import (
	"net/http"
	"strings"

	"github.com/growvol/growvol/pkg/kubeapi"
)

// This file holds VolumeAttachments.

// attachment is a VolumeAttachment.
type attachment struct {
	driver, node            string
	isAttached, isDetaching bool
}

// SetAttached makes the VolumeAttachment of a volume and a node, or changes it.
func (s *Server) SetAttached(driver, handle, node string, isAttached bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attachments[kubeapi.VolumeAttachmentName(driver, handle, node)] = &attachment{
		driver: driver, node: node, isAttached: isAttached,
	}
}

// BeginDetaching marks a VolumeAttachment as deleted: it stays until ControllerUnpublishVolume has
// succeeded.
func (s *Server) BeginDetaching(driver, handle, node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attachments[kubeapi.VolumeAttachmentName(driver, handle, node)].isDetaching = true
}

// RemoveAttachment removes a VolumeAttachment.
func (s *Server) RemoveAttachment(driver, handle, node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.attachments, kubeapi.VolumeAttachmentName(driver, handle, node))
}

// AttachEverything makes every VolumeAttachment of the node exist, except those that SetAttached
// makes.
func (s *Server) AttachEverything(driver, node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.everything = &attachment{driver: driver, node: node, isAttached: true}
}

// serveAttachment answers a request for a VolumeAttachment.
func (s *Server) serveAttachment(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, kubeapi.VolumeAttachmentsPath)
	a := s.attachments[name]
	if a == nil {
		a = s.everything
	}
	switch {
	case a == nil:
		Refuse(w, http.StatusNotFound, `volumeattachments.storage.k8s.io "`+name+`" not found`)
	case r.Method == http.MethodGet:
		metadata := map[string]any{"name": name}
		if a.isDetaching {
			metadata["deletionTimestamp"] = "2026-11-28T16:00:00Z"
		}
		Answer(w, map[string]any{
			"metadata": metadata,
			"spec":     map[string]string{"attacher": a.driver, "nodeName": a.node},
			"status":   map[string]bool{"attached": a.isAttached},
		})
	default:
		Refuse(w, http.StatusMethodNotAllowed, r.Method+" is not implemented")
	}
}

package kubernetes_test

import "testing"

// TestCinder is the whole road: claims of a real Kubernetes are volumes of a
// real Cinder, and grow under pods on a real Nova instance, whose kernel lets
// ext3 and ext4 grow too. It is one test so that its parts share the instance.
func TestCinder(t *testing.T) {
	c := joinCloud(t)
	_ = c
}

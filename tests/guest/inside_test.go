package guest_test

import (
	"os"
	"testing"

	"github.com/growvol/growvol/tests/guest"
)

func TestMain(m *testing.M) {
	os.Exit(guest.Main(m, guest.Options{}))
}

func TestInside(t *testing.T) {
	if !guest.Inside() {
		t.Fatal("not in a guest")
	}
	t.Log(os.Getwd())
}

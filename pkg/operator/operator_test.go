package operator

import (
	"log/slog"
	"net/http"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/meta/testrestmapper"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

// countingManager counts the controllers that are added to it.
type countingManager struct {
	manager.Manager
	added int
}

func (m *countingManager) Add(r manager.Runnable) error {
	m.added++
	return m.Manager.Add(r)
}

// TestKubeletIsNotWokenIfThatIsTurnedOff checks which controllers run. No API server is needed: a
// manager connects when it starts.
func TestKubeletIsNotWokenIfThatIsTurnedOff(t *testing.T) {
	for wake, want := range map[bool]int{false: 1, true: 2} {
		o := Options{Drivers: []string{"d"}, WakeKubelet: wake, Log: slog.New(slog.DiscardHandler)}
		options := o.managerOptions()
		options.Controller = config.Controller{SkipNameValidation: ptr.To(true)} // both cases use the names
		options.MapperProvider = func(*rest.Config, *http.Client) (meta.RESTMapper, error) {
			return testrestmapper.TestOnlyStaticRESTMapper(clientgoscheme.Scheme), nil
		}
		m, err := manager.New(&rest.Config{Host: "192.0.2.1"}, options)
		if err != nil {
			t.Fatal(err)
		}
		counting := &countingManager{Manager: m}
		if err := o.addControllers(counting, prometheus.NewRegistry()); err != nil {
			t.Fatal(err)
		}
		if counting.added != want {
			t.Errorf("WakeKubelet %t: got %d controllers, want %d", wake, counting.added, want)
		}
	}
}

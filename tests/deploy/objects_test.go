// Package deploy_test compares the chart, the manifests, the examples and the documentation with
// each other and with the plugins: names, options, parameters, messages and metrics must be those
// of the code. The tests in tests/kubernetes apply the objects to a real API server.
package deploy_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/growvol/growvol/tests/csiclient"
)

// object has the fields of a Kubernetes object that the tests need.
type object struct {
	Kind     string `yaml:"kind"`
	Metadata struct {
		Name        string            `yaml:"name"`
		Namespace   string            `yaml:"namespace"`
		Labels      map[string]string `yaml:"labels"`
		Annotations map[string]string `yaml:"annotations"`
	} `yaml:"metadata"`
	Spec      spec  `yaml:"spec"`
	Automount *bool `yaml:"automountServiceAccountToken"`

	// Fields of classes.
	Provisioner          string            `yaml:"provisioner"`
	Driver               string            `yaml:"driver"`
	DriverName           string            `yaml:"driverName"`
	Parameters           map[string]string `yaml:"parameters"`
	AllowVolumeExpansion bool              `yaml:"allowVolumeExpansion"`

	// Fields of roles and bindings.
	Rules []struct {
		Resources     []string `yaml:"resources"`
		ResourceNames []string `yaml:"resourceNames"`
		Verbs         []string `yaml:"verbs"`
	} `yaml:"rules"`
	RoleRef  reference   `yaml:"roleRef"`
	Subjects []reference `yaml:"subjects"`

	// Fields of Secrets and ConfigMaps.
	Data       map[string]string `yaml:"data"`
	StringData map[string]string `yaml:"stringData"`
}

// reference names another object.
type reference struct {
	Kind      string `yaml:"kind"`
	Name      string `yaml:"name"`
	Namespace string `yaml:"namespace"`
}

// spec has the fields of the specs of all kinds.
type spec struct {
	podSpec `yaml:",inline"`

	Replicas int `yaml:"replicas"`
	Template struct {
		Metadata struct {
			Labels      map[string]string `yaml:"labels"`
			Annotations map[string]string `yaml:"annotations"`
		} `yaml:"metadata"`
		Spec podSpec `yaml:"spec"`
	} `yaml:"template"`
	Selector             yaml.Node `yaml:"selector"`
	VolumeClaimTemplates []struct {
		Spec      spec  `yaml:"spec"`
		Automount *bool `yaml:"automountServiceAccountToken"`
	} `yaml:"volumeClaimTemplates"`

	StorageClassName        string    `yaml:"storageClassName"`
	VolumeSnapshotClassName string    `yaml:"volumeSnapshotClassName"`
	DataSource              reference `yaml:"dataSource"`
	Source                  struct {
		Claim string `yaml:"persistentVolumeClaimName"`
	} `yaml:"source"`

	// Fields of a Service and a ServiceMonitor.
	Ports []struct {
		Name       string `yaml:"name"`
		TargetPort string `yaml:"targetPort"`
	} `yaml:"ports"`
	Endpoints []struct {
		Port        string `yaml:"port"`
		HonorLabels bool   `yaml:"honorLabels"`
	} `yaml:"endpoints"`

	ClusterIP string `yaml:"clusterIP"`

	// Fields of a CSIDriver.
	AttachRequired       string   `yaml:"attachRequired"`
	FSGroupPolicy        string   `yaml:"fsGroupPolicy"`
	VolumeLifecycleModes []string `yaml:"volumeLifecycleModes"`
	PreventIfMissing     *bool    `yaml:"preventPodSchedulingIfMissing"`

	// Field of a PrometheusRule.
	Groups yaml.Node `yaml:"groups"`

	// Fields of a SnapshotMetadataService.
	Address  string `yaml:"address"`
	Audience string `yaml:"audience"`
	CACert   string `yaml:"caCert"`

	// Field of a PodDisruptionBudget.
	UnhealthyPodEvictionPolicy string `yaml:"unhealthyPodEvictionPolicy"`

	// Fields of an admission policy and its binding.
	MatchConditions   []expression `yaml:"matchConditions"`
	Validations       []expression `yaml:"validations"`
	PolicyName        string       `yaml:"policyName"`
	ValidationActions []string     `yaml:"validationActions"`
}

type expression struct {
	Expression string `yaml:"expression"`
}

type podSpec struct {
	Automount          *bool             `yaml:"automountServiceAccountToken"`
	ServiceAccountName string            `yaml:"serviceAccountName"`
	PriorityClassName  string            `yaml:"priorityClassName"`
	HostNetwork        bool              `yaml:"hostNetwork"`
	HostPID            bool              `yaml:"hostPID"`
	HostUsers          *bool             `yaml:"hostUsers"`
	GraceSeconds       int               `yaml:"terminationGracePeriodSeconds"`
	NodeSelector       map[string]string `yaml:"nodeSelector"`
	SecurityContext    securityContext   `yaml:"securityContext"`
	InitContainers     []container       `yaml:"initContainers"`
	Containers         []container       `yaml:"containers"`
	Volumes            []podVolume       `yaml:"volumes"`
}

type podVolume struct {
	Name     string `yaml:"name"`
	HostPath struct {
		Path string `yaml:"path"`
	} `yaml:"hostPath"`
	Secret struct {
		SecretName string `yaml:"secretName"`
	} `yaml:"secret"`
	ConfigMap struct {
		Name string `yaml:"name"`
	} `yaml:"configMap"`
	Projected struct {
		Sources []struct {
			Secret struct {
				Name  string `yaml:"name"`
				Items []struct {
					Path string `yaml:"path"`
				} `yaml:"items"`
			} `yaml:"secret"`
		} `yaml:"sources"`
	} `yaml:"projected"`
	Claim struct {
		Name string `yaml:"claimName"`
	} `yaml:"persistentVolumeClaim"`
	Ephemeral struct {
		Template struct {
			Spec struct {
				StorageClassName string `yaml:"storageClassName"`
			} `yaml:"spec"`
		} `yaml:"volumeClaimTemplate"`
	} `yaml:"ephemeral"`
}

type securityContext struct {
	Privileged               bool  `yaml:"privileged"`
	ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
	AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
	RunAsNonRoot             bool  `yaml:"runAsNonRoot"`
	Capabilities             struct {
		Drop []string `yaml:"drop"`
	} `yaml:"capabilities"`
	SeccompProfile struct {
		Type string `yaml:"type"`
	} `yaml:"seccompProfile"`
}

type container struct {
	Name  string   `yaml:"name"`
	Image string   `yaml:"image"`
	Args  []string `yaml:"args"`
	Env   []struct {
		Name string `yaml:"name"`
		From struct {
			Field struct {
				Path string `yaml:"fieldPath"`
			} `yaml:"fieldRef"`
		} `yaml:"valueFrom"`
	} `yaml:"env"`
	Ports           []port          `yaml:"ports"`
	StartupProbe    probe           `yaml:"startupProbe"`
	ReadinessProbe  probe           `yaml:"readinessProbe"`
	LivenessProbe   probe           `yaml:"livenessProbe"`
	SecurityContext securityContext `yaml:"securityContext"`
	VolumeMounts    []mount         `yaml:"volumeMounts"`
}

type port struct {
	Name   string `yaml:"name"`
	Number int    `yaml:"containerPort"`
}

type mount struct {
	Name        string `yaml:"name"`
	MountPath   string `yaml:"mountPath"`
	Propagation string `yaml:"mountPropagation"`
}

type probe struct {
	HTTPGet struct {
		Path string `yaml:"path"`
		Port string `yaml:"port"`
	} `yaml:"httpGet"`
}

// option returns the value of the argument --name=value, and whether the container has it.
func (c container) option(name string) (value string, found bool) {
	for _, arg := range c.Args {
		option, value, _ := strings.Cut(arg, "=")
		if option == "--"+name {
			return value, true
		}
	}
	return "", false
}

// parseObjects returns the objects of a YAML stream after it has checked their YAML.
func parseObjects(t *testing.T, text []byte) []object {
	t.Helper()
	var all []object
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var document yaml.Node
		err := decoder.Decode(&document)
		switch {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			t.Fatalf("%v in\n%s", err, text)
		}
		checkYAML(t, &document, "")
		var o object
		if err := document.Decode(&o); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if o.Kind != "" { // empty: the document has only comments
			all = append(all, o)
		}
	}
}

// moduleRoot returns the directory of the module.
func moduleRoot(t *testing.T) string {
	t.Helper()
	dir, err := csiclient.ModuleRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// readObjects returns the objects in the files that match a pattern below the directory of the
// module.
func readObjects(t *testing.T, pattern string) []object {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(moduleRoot(t), pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no file matches %s (%v)", pattern, err)
	}
	var all []object
	for _, file := range files {
		all = append(all, parseObjects(t, readFile(t, file))...)
	}
	return all
}

// readFile returns the content of a file. A relative path begins at the directory of the module.
func readFile(t *testing.T, path string) []byte {
	t.Helper()
	if !filepath.IsAbs(path) {
		path = filepath.Join(moduleRoot(t), path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// readText is readFile for text.
func readText(t *testing.T, path string) string {
	t.Helper()
	return string(readFile(t, path))
}

// findObject returns the object with this kind and name, and whether it exists.
func findObject(objects []object, kind, name string) (object, bool) {
	for _, o := range objects {
		if o.Kind == kind && o.Metadata.Name == name {
			return o, true
		}
	}
	return object{}, false
}

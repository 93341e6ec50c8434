// Package deploy_test checks the chart, the manifests made from it and the
// examples against each other and against the plugins: what they say must be
// what the programs take. That a Kubernetes API server takes them is tested in
// tests/kubernetes.
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

// object is what the checks need of a Kubernetes object.
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

	// Of classes.
	Provisioner          string            `yaml:"provisioner"`
	Driver               string            `yaml:"driver"`
	DriverName           string            `yaml:"driverName"`
	Parameters           map[string]string `yaml:"parameters"`
	AllowVolumeExpansion bool              `yaml:"allowVolumeExpansion"`

	// Of roles and bindings.
	Rules []struct {
		Resources     []string `yaml:"resources"`
		ResourceNames []string `yaml:"resourceNames"`
		Verbs         []string `yaml:"verbs"`
	} `yaml:"rules"`
	RoleRef  reference   `yaml:"roleRef"`
	Subjects []reference `yaml:"subjects"`

	// Of a Secret or ConfigMap.
	Data       map[string]string `yaml:"data"`
	StringData map[string]string `yaml:"stringData"`
}

type reference struct {
	Kind      string `yaml:"kind"`
	Name      string `yaml:"name"`
	Namespace string `yaml:"namespace"`
}

// spec is that of workloads, claims, snapshots and services together.
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

	// Of a Service and a ServiceMonitor.
	Ports []struct {
		Name       string `yaml:"name"`
		TargetPort string `yaml:"targetPort"`
	} `yaml:"ports"`
	Endpoints []struct {
		Port        string `yaml:"port"`
		HonorLabels bool   `yaml:"honorLabels"`
	} `yaml:"endpoints"`

	ClusterIP string `yaml:"clusterIP"`

	// Of a CSIDriver.
	AttachRequired       string   `yaml:"attachRequired"`
	FSGroupPolicy        string   `yaml:"fsGroupPolicy"`
	VolumeLifecycleModes []string `yaml:"volumeLifecycleModes"`
	PreventIfMissing     *bool    `yaml:"preventPodSchedulingIfMissing"`

	// Of a PrometheusRule.
	Groups yaml.Node `yaml:"groups"`

	// Of a PodDisruptionBudget.
	UnhealthyPodEvictionPolicy string `yaml:"unhealthyPodEvictionPolicy"`

	// Of an admission policy and its binding.
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

// option returns the value of --name, and whether it is there.
func (c container) option(name string) (value string, found bool) {
	for _, arg := range c.Args {
		option, value, _ := strings.Cut(arg, "=")
		if option == "--"+name {
			return value, true
		}
	}
	return "", false
}

// parse reads all objects of a YAML stream, whose form it checks.
func parse(t *testing.T, text []byte) []object {
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
		checkForm(t, &document, "")
		var o object
		if err := document.Decode(&o); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if o.Kind != "" { // nothing but comments else
			all = append(all, o)
		}
	}
}

// root is the module's directory.
func root(t *testing.T) string {
	t.Helper()
	dir, err := csiclient.ModuleRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// read returns the objects of the files that match a pattern below the
// module's directory.
func read(t *testing.T, pattern string) []object {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root(t), pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no file, %v", pattern, err)
	}
	var all []object
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, parse(t, text)...)
	}
	return all
}

// find returns the object of a kind and name.
func find(objects []object, kind, name string) (object, bool) {
	for _, o := range objects {
		if o.Kind == kind && o.Metadata.Name == name {
			return o, true
		}
	}
	return object{}, false
}

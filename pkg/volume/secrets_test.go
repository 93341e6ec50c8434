package volume

import "testing"

func TestSecretsTravelWithTheContext(t *testing.T) {
	if got := SecretsFrom(t.Context()); got != nil {
		t.Errorf("secrets out of nowhere: %d", len(got))
	}
	if ctx := WithSecrets(t.Context(), nil); SecretsFrom(ctx) != nil {
		t.Error("no secrets became some")
	}
	ctx := WithSecrets(t.Context(), map[string]string{"cloud": "east"})
	if got := SecretsFrom(ctx)["cloud"]; got != "east" {
		t.Errorf("cloud %q, want east", got)
	}
}

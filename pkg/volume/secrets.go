package volume

import "context"

// secretsKey is the key of a context for the secrets of a CSI request.
type secretsKey struct{}

// WithSecrets returns a context that carries the secrets of a request (CSI v1.13, Secrets
// Requirements). The context carries them because they are the credentials of the whole call
// and not a parameter of a single operation.
func WithSecrets(ctx context.Context, secrets map[string]string) context.Context {
	if len(secrets) == 0 {
		return ctx
	}
	return context.WithValue(ctx, secretsKey{}, secrets)
}

// SecretsFrom returns the secrets that ctx carries; nil: none. The caller must
// never write them to a log or an error.
func SecretsFrom(ctx context.Context) map[string]string {
	secrets, _ := ctx.Value(secretsKey{}).(map[string]string)
	return secrets
}

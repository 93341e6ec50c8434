package volume

import "context"

type secretsKey struct{}

// WithSecrets returns a context that carries the secrets of a request (CSI
// v1.13, Secrets Requirements). They belong to the call as a whole, not to any
// one operation of the storage system: they say on whose behalf it is made.
func WithSecrets(ctx context.Context, secrets map[string]string) context.Context {
	if len(secrets) == 0 {
		return ctx
	}
	return context.WithValue(ctx, secretsKey{}, secrets)
}

// SecretsFrom returns the secrets of the request that ctx belongs to; nil when
// it has none. They must never be logged or put into an error.
func SecretsFrom(ctx context.Context) map[string]string {
	secrets, _ := ctx.Value(secretsKey{}).(map[string]string)
	return secrets
}

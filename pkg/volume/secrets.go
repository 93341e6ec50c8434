package volume

import "context"

// secretsKey is the key of a context for the secrets of a CSI request.
type secretsKey struct{}

// WithSecrets returns a context that carries the secrets of a request (CSI v1.13, Secrets
// Requirements). They travel in the context because they name the user of the whole call and
// are no parameter of a single operation of the storage system.
func WithSecrets(ctx context.Context, secrets map[string]string) context.Context {
	if len(secrets) == 0 {
		return ctx
	}
	return context.WithValue(ctx, secretsKey{}, secrets)
}

// SecretsFrom returns the secrets of the request of ctx, nil without any. The caller must
// never write them to a log or an error.
func SecretsFrom(ctx context.Context) map[string]string {
	secrets, _ := ctx.Value(secretsKey{}).(map[string]string)
	return secrets
}

package client

import (
	"context"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/growvol/growvol/pkg/apierror"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	// tokenLifetime is the lifetime of a token in seconds: the shortest that the API server issues.
	tokenLifetime = 600
	// maxTokenAge is the age at which a token is replaced. The age is measured on this machine:
	// the clock of the API server may differ.
	maxTokenAge = tokenLifetime * time.Second / 2
)

// tokens are the tokens of the ServiceAccounts, in memory only. This file gets and renews them.
type tokens struct {
	client kubernetes.Interface
	lock   chan struct{} // holds one element while a caller uses byAccount
	// byAccount has the last token of each account.
	byAccount map[types.NamespacedName]token
}

type token struct {
	text    string
	created time.Time
}

func newTokens(client kubernetes.Interface) tokens {
	return tokens{client: client, lock: make(chan struct{}, 1), byAccount: map[types.NamespacedName]token{}}
}

// get returns a token of the account. isNew reports that this call has created it.
//
// Kinds: Denied, NotFound (there is no such account), Unauthenticated, Unavailable, Deadline,
// Canceled.
func (t *tokens) get(ctx context.Context, account types.NamespacedName) (text string, isNew bool, err error) {
	select {
	case t.lock <- struct{}{}:
		defer func() { <-t.lock }()
	case <-ctx.Done():
		return "", false, apierror.Of(ctx.Err(), "create", "serviceaccounts/token", account.Namespace)
	}
	last := t.byAccount[account]
	if last.text != "" && time.Since(last.created) < maxTokenAge {
		return last.text, false, nil
	}
	created := time.Now()
	request := &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](tokenLifetime)},
	}
	answer, err := t.client.CoreV1().ServiceAccounts(account.Namespace).
		CreateToken(ctx, account.Name, request, metav1.CreateOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", false, volume.Errorf(volume.KindNotFound, "the ServiceAccount %s does not exist", account).
			WithRemedy("install the chart with readings.enabled: true")
	case err != nil:
		return "", false, apierror.Of(err, "create", "serviceaccounts/token of "+account.Name, account.Namespace)
	}
	t.byAccount[account] = token{text: answer.Status.Token, created: created}
	return answer.Status.Token, true, nil
}

// forget removes a token that was refused.
func (t *tokens) forget(ctx context.Context, account types.NamespacedName, text string) {
	select {
	case t.lock <- struct{}{}:
		defer func() { <-t.lock }()
	case <-ctx.Done():
		return
	}
	if t.byAccount[account].text == text {
		delete(t.byAccount, account)
	}
}

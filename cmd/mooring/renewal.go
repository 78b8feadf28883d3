package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"mooring.dev/mooring/internal/identity"
	"mooring.dev/mooring/internal/kube"
)

const (
	// renewNum/renewDen of a certificate's life are over when the agent asks for the
	// next one.
	renewNum, renewDen = 2, 3
	// expiryNear is when a complaint begins, or at a third of a shorter life.
	expiryNear = 30 * 24 * time.Hour
	// askAgain is the least time between two requests for one certificate: nobody
	// shall have to deny the same every minute. Or a tenth of its life.
	askAgain = 24 * time.Hour
	// credentialsEvery is the pace: a look asks the API only while a request is under way.
	credentialsEvery = 5 * time.Second
	// pendingFile in stateDir is the request under way: {name, key, filed}.
	pendingFile = "credentials-request.json"
)

// pending is a request under way; its key never leaves this node.
type pending struct {
	Name  string
	Key   []byte // PEM
	Filed time.Time
}

// renewal looks after a node's credentials.
type renewal struct {
	n        *node
	requests certificateRequests
	now      func() time.Time
	expiry   prometheus.Gauge
	waiting  prometheus.Gauge
	told     string // the request last told in an Event
}

// certificateRequests is what a renewal asks of the API: kube.Requests. Both are
// idempotent.
type certificateRequests interface {
	File(ctx context.Context, name string, pkcs10 []byte, life time.Duration) error
	Look(ctx context.Context, name string) (kube.Request, error)
}

// newRenewal prepares; it connects to nothing.
func newRenewal(n *node) (*renewal, error) {
	requests, err := kube.NewRequests(n.servers.RESTConfig(0))
	if err != nil {
		return nil, err
	}
	return &renewal{
		n: n, requests: requests, now: time.Now,
		expiry: gauge(n.registry, "mooring_credentials_expiry_seconds",
			"Actual: when the agent's client certificate expires, in seconds since 1970; 0 without one."),
		waiting: gauge(n.registry, "mooring_credentials_request_pending",
			"Actual: 1 while a request for the next certificate waits for approval or its signer."),
	}, nil
}

// gauge registers one, or finds the one of the node before in this process.
func gauge(r *prometheus.Registry, name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	var same prometheus.AlreadyRegisteredError
	if err := r.Register(g); errors.As(err, &same) {
		if old, ok := same.ExistingCollector.(prometheus.Gauge); ok {
			return old
		}
	}
	return g
}

// watchCredentials tells what is wrong with the credentials and renews them,
// until ctx ends.
func (n *node) watchCredentials(ctx context.Context) error {
	r, err := newRenewal(n)
	if err != nil {
		return err
	}
	for {
		r.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(credentialsEvery):
		}
	}
}

// look does what is due.
func (r *renewal) look(ctx context.Context) {
	n, c := r.n, r.n.credentials
	r.expiry.Set(0)
	if c.known {
		r.expiry.Set(float64(c.life.NotAfter.Unix()))
	}
	n.complain("credentials", r.wrong())
	n.complain("credentials-mount", behindMount(c.path))
	renewable := c.known && c.Embedded && c.life.Of(n.cfg.Node) && !c.life.Expired(r.now())
	if !renewable || r.now().Before(c.life.At(renewNum, renewDen)) {
		r.say(pending{}, "")
		return
	}
	if err := r.renew(ctx); err != nil && ctx.Err() == nil {
		n.complain("renewal", "the agent's certificate is not renewed: "+err.Error())
	}
}

// wrong says what a person should do about the credentials, "" for nothing.
func (r *renewal) wrong() string {
	c, cfg, now := r.n.credentials, r.n.cfg, r.now()
	near := min(expiryNear, c.life.Whole()/3)
	switch code := r.n.servers.Refused(); {
	case c.missing:
		return fmt.Sprintf("no credentials: %s does not exist yet; until it does nobody is asked who may hold, and the VIP "+
			"reaches the holder's own API server; once the cluster's CA is there: mooring credentials --node %s",
			c.path, cfg.Node)
	case c.known && c.life.Expired(now):
		return fmt.Sprintf("the certificate in %s expired at %s: API servers refuse this agent, it keeps what it has; "+
			"write the next one: mooring credentials --node %s", c.path, c.life.NotAfter.UTC().Format(time.RFC3339), cfg.Node)
	case code == 401:
		return fmt.Sprintf("API servers do not know the credentials in %s (401): this agent keeps what it has; is the "+
			"authority another one since? mooring credentials --force --node %s", c.path, cfg.Node)
	case code == 403:
		return fmt.Sprintf("the credentials in %s have no right to the Leases (403): mooring manifest namespace | kubectl "+
			"apply -f -; mooring manifest rbac | kubectl apply -f -; its user must be %s of the group %s", c.path,
			identity.User(cfg.Node), identity.Group)
	case c.known && c.life.NotAfter.Sub(now) < near:
		return fmt.Sprintf("the certificate in %s expires at %s (%s): mooring credentials --node %s, or approve its request",
			c.path, c.life.NotAfter.UTC().Format(time.RFC3339), left(c.life.NotAfter, now), cfg.Node)
	default:
		return ""
	}
}

// renew files a request, or looks how far it has come, and takes over what was
// issued. The supervisor then finds the new file.
func (r *renewal) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var p pending
	if err := recall(r.pendingPath(), &p); err != nil || p.Name == "" {
		p = pending{} // unreadable: another key does as well
	}
	if p.Name == "" {
		return r.file(ctx, p)
	}
	got, err := r.requests.Look(ctx, p.Name)
	if err != nil {
		return fmt.Errorf("asking for CertificateSigningRequest %s: %w", p.Name, err)
	}
	switch again := min(askAgain, r.n.credentials.life.Whole()/10); {
	case got.State == kube.RequestIssued:
		return r.take(p, got.Cert)
	case got.State == kube.RequestGone && r.now().Sub(p.Filed) >= again:
		return r.file(ctx, p)
	case got.State == kube.RequestWaiting:
		r.say(p, fmt.Sprintf("waits for approval: kubectl certificate approve %s", p.Name))
	case got.State == kube.RequestApproved:
		r.say(p, "is approved and waits for its signer: kube-controller-manager needs --cluster-signing-cert-file "+
			"and -key-file (without the CA's key in the cluster: mooring credentials --csr)")
	default:
		r.say(p, fmt.Sprintf("is %s (%s); the next one is made %s after it was filed and is gone; or, on this node: "+
			"mooring credentials", got.State, orNone(got.Why), again))
	}
	return nil
}

// file makes a key, which is kept before anybody hears of it, and the request.
func (r *renewal) file(ctx context.Context, old pending) error {
	key, err := identity.NewKey()
	if err != nil {
		return err
	}
	text, err := key.PEM()
	if err != nil {
		return err
	}
	request, err := key.Request(r.n.cfg.Node)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(request)
	p := pending{Name: fmt.Sprintf("mooring-%s-%x", r.n.cfg.Node, sum[:4]), Key: text, Filed: r.now()}
	if err := keep(r.pendingPath(), p); err != nil {
		return fmt.Errorf("stateDir: %w", err)
	}
	if err := r.requests.File(ctx, p.Name, request, r.n.credentials.life.Whole()); err != nil {
		if old.Name == "" {
			_ = os.Remove(r.pendingPath()) // not filed: the next look tries again
		}
		return fmt.Errorf("filing a CertificateSigningRequest: %w (its right comes with mooring manifest rbac)", err)
	}
	r.say(p, fmt.Sprintf("waits for approval: kubectl certificate approve %s", p.Name))
	return nil
}

// take writes the kubeconfig with the issued certificate, if it is what was asked for.
func (r *renewal) take(p pending, cert []byte) error {
	life, err := identity.Pair{Cert: cert, Key: p.Key}.Check(r.n.cfg.Node, nil, r.now())
	if err != nil {
		_ = os.Remove(r.pendingPath())
		return fmt.Errorf("CertificateSigningRequest %s was answered by a certificate of no use: %w", p.Name, err)
	}
	text, err := kube.Renewed(r.n.credentials.path, cert, p.Key)
	if err != nil {
		return err
	}
	path, err := keepRenewed(r.n.cfg, text)
	if err != nil {
		return err
	}
	_ = os.Remove(r.pendingPath())
	r.say(pending{}, "")
	r.n.log.Info("certificate renewed", "kubeconfig", path, "until", life.NotAfter.UTC().Format(time.RFC3339))
	r.n.reporter.Report(kube.Note{Type: kube.Normal, Reason: "CredentialsRenewed", Message: fmt.Sprintf(
		"the agent's certificate is renewed until %s, in %s", life.NotAfter.UTC().Format(time.RFC3339), path)})
	return nil
}

// say tells how a request stands, by status, metric and, when it is new or has
// changed, Event; "" is none.
func (r *renewal) say(p pending, text string) {
	r.waiting.Set(flag01(text != ""))
	r.n.mu.Lock()
	r.n.request = p.Name
	r.n.mu.Unlock()
	if text != "" {
		text = fmt.Sprintf("the agent's certificate expires at %s; its renewal, CertificateSigningRequest %s, %s",
			r.n.credentials.life.NotAfter.UTC().Format(time.RFC3339), p.Name, text)
	}
	r.n.complain("renewal", text)
	if text != "" && text != r.told {
		r.n.log.Warn(text)
		r.n.reporter.Report(kube.Note{Type: kube.Warning, Reason: "CredentialsRenewal", Message: text})
	}
	r.told = text
}

func (r *renewal) pendingPath() string { return filepath.Join(r.n.cfg.StateDir, pendingFile) }

// credentialsStatus is for `mooring status`; n.mu is held.
func (n *node) credentialsStatus() credentialsReport {
	c := n.credentials
	out := credentialsReport{Kubeconfig: c.path, Request: n.request}
	if c.known {
		out.User, out.Expires = c.life.User, &c.life.NotAfter
	}
	return out
}

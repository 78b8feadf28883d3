package kube

import (
	"context"
	"fmt"
	"strings"

	authv1 "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"golang.org/x/sync/errgroup"
)

// Right is one thing that somebody may do.
type Right struct {
	// Namespace is "" for the whole cluster.
	Namespace, Verb, Group, Resource, Subresource string
	// Name is of the one object that it is for, "" for all.
	Name string
}

// String is as kubectl would ask: "create leases.coordination.k8s.io in mooring-system".
func (r Right) String() string {
	s := r.Verb + " " + r.Resource
	if r.Group != "" {
		s += "." + r.Group
	}
	if r.Subresource != "" {
		s += "/" + r.Subresource
	}
	if r.Name != "" {
		s += " " + r.Name
	}
	if r.Namespace != "" {
		s += " in " + r.Namespace
	}
	return s
}

// Rights are what the Roles and ClusterRoles of a manifest allow, a right for each
// verb, resource and name, in the manifest's order.
func Rights(manifest string) ([]Right, error) {
	var out []Right
	for doc := range strings.SplitSeq(manifest, "\n---\n") {
		var role rbacv1.Role // a ClusterRole has the same rules
		if err := yaml.Unmarshal([]byte(doc), &role); err != nil {
			return nil, fmt.Errorf("rights of a manifest: %w", err)
		}
		if role.Kind != "Role" && role.Kind != "ClusterRole" {
			continue
		}
		for _, rule := range role.Rules {
			out = append(out, rightsOf(role.Namespace, rule)...)
		}
	}
	return out, nil
}

// rightsOf takes one rule apart.
func rightsOf(namespace string, rule rbacv1.PolicyRule) []Right {
	names := rule.ResourceNames
	if len(names) == 0 {
		names = []string{""}
	}
	var out []Right
	for _, group := range rule.APIGroups {
		for _, resource := range rule.Resources {
			resource, sub, _ := strings.Cut(resource, "/")
			for _, verb := range rule.Verbs {
				for _, name := range names {
					out = append(out, Right{namespace, verb, group, resource, sub, name})
				}
			}
		}
	}
	return out
}

// Who is a user as an API server sees it.
type Who struct {
	Name   string
	Groups []string
}

// WhoAmI asks the API server whose credentials these are.
func WhoAmI(ctx context.Context, config *rest.Config) (Who, error) {
	c, err := authenticationclient.NewForConfig(config)
	if err != nil {
		return Who{}, fmt.Errorf("client for reviews: %w", err)
	}
	got, err := c.SelfSubjectReviews().Create(ctx, &authv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return Who{}, err
	}
	return Who{got.Status.UserInfo.Username, got.Status.UserInfo.Groups}, nil
}

// askedAtOnce is how many reviews are under way: each is a small request that
// changes nothing.
const askedAtOnce = 8

// Denied are those of the rights that the user of the credentials has not. With as,
// whose own credentials are not at hand, the question is about that user; asking it
// wants the right to create SubjectAccessReviews.
func Denied(ctx context.Context, config *rest.Config, all []Right, as *Who) ([]Right, error) {
	c, err := authorizationclient.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client for reviews: %w", err)
	}
	allowed := make([]bool, len(all))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(askedAtOnce)
	for i, r := range all {
		g.Go(func() error {
			var err error
			allowed[i], err = review(ctx, c, r.attributes(), as)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var out []Right
	for i, r := range all {
		if !allowed[i] {
			out = append(out, r)
		}
	}
	return out, nil
}

func (r Right) attributes() *authorization.ResourceAttributes {
	return &authorization.ResourceAttributes{
		Namespace: r.Namespace, Verb: r.Verb, Group: r.Group, Resource: r.Resource, Subresource: r.Subresource, Name: r.Name,
	}
}

// review asks one question.
func review(
	ctx context.Context, c authorizationclient.AuthorizationV1Interface, what *authorization.ResourceAttributes, as *Who,
) (bool, error) {
	if as == nil {
		got, err := c.SelfSubjectAccessReviews().Create(ctx, &authorization.SelfSubjectAccessReview{
			Spec: authorization.SelfSubjectAccessReviewSpec{ResourceAttributes: what},
		}, metav1.CreateOptions{})
		return err == nil && got.Status.Allowed, err
	}
	got, err := c.SubjectAccessReviews().Create(ctx, &authorization.SubjectAccessReview{
		Spec: authorization.SubjectAccessReviewSpec{ResourceAttributes: what, User: as.Name, Groups: as.Groups},
	}, metav1.CreateOptions{})
	return err == nil && got.Status.Allowed, err
}

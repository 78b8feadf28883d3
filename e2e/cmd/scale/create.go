package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// createLimit is when a new Service that does not answer ends the play.
const createLimit = 30 * time.Second

// create is how soon a new Service answers, among many, and right after a cold start.
func (b *scale) create() {
	const made = 50
	b.Title(fmt.Sprintf("Services made one by one among %d", b.services))
	b.whole(population{n: b.services})
	for k := range b.runs {
		var took []time.Duration
		for i := range made {
			s := service(fmt.Sprintf("new-%d-%02d", k, i), false)
			if i == made/2 {
				s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			}
			took = append(took, b.made(s))
		}
		for _, p := range []struct {
			of     float64
			target string
		}{{50, ""}, {99, "≤ 2000 ms"}} {
			what := fmt.Sprintf("Service made among %d: first answer, p%.0f of %d, one with affinity", b.services, p.of, made)
			b.add(figure{What: what, Target: p.target, Format: "%.0f ms"}, percentile(millis(took), p.of))
		}
		for i := range made {
			if err := b.remove(fmt.Sprintf("new-%d-%02d", k, i)); err != nil {
				b.Fatalf("%v", err)
			}
		}
		time.Sleep(5 * time.Second)
	}
	b.first()
}

// first is the same of a Service that comes as soon as the others answer.
func (b *scale) first() {
	for k := range b.runs {
		for _, n := range b.All() {
			b.off(n)
		}
		b.run(nil, b.All()...)
		b.awaitAnswers(time.Minute)
		name := fmt.Sprintf("first-%d", k)
		b.add(figure{What: "first Service made after a cold start of all nodes, as soon as the others answer: first answer",
			Target: "≤ 2000 ms", Format: "%.0f ms"}, millis([]time.Duration{b.made(service(name, false))})[0])
		if err := b.remove(name); err != nil {
			b.Fatalf("%v", err)
		}
		time.Sleep(3 * time.Second)
	}
}

// whole makes all nodes serve a population.
func (b *scale) whole(p population) {
	b.populate(p)
	b.run(nil, b.All()...)
	b.awaitAddresses(2 * time.Minute)
	if !p.local {
		b.awaitAnswers(time.Minute)
	}
	time.Sleep(5 * time.Second) // announcements, renewals, the new members' share of the groups
}

// made makes a Service and returns when it first answers.
func (b *scale) made(s *corev1.Service) time.Duration {
	ctx, cancel := context.WithTimeout(context.Background(), createLimit)
	defer cancel()
	named := metav1.ListOptions{FieldSelector: "metadata.name=" + s.Name}
	seen, err := b.kube.CoreV1().Services(namespace).Watch(ctx, named)
	if err != nil {
		b.Fatalf("%v", err)
	}
	defer seen.Stop()
	begun := time.Now()
	if err := b.publish(s, b.endpoints(b.pods[:endpointsEach])); err != nil {
		b.Fatalf("%v", err)
	}
	for ev := range seen.ResultChan() {
		now, ok := ev.Object.(*corev1.Service)
		if !ok || len(now.Status.LoadBalancer.Ingress) == 0 {
			continue
		}
		addressed := time.Since(begun)
		for b.ask(now.Status.LoadBalancer.Ingress[0].IP+":80", 100*time.Millisecond) != nil && ctx.Err() == nil {
			time.Sleep(5 * time.Millisecond)
		}
		if took := time.Since(begun); ctx.Err() == nil {
			if took > time.Second {
				b.Logf("%s: address after %.2f s, answer after %.2f s", s.Name, addressed.Seconds(), took.Seconds())
			}
			return took
		}
	}
	b.Fatalf("Service %s does not answer within %s", s.Name, createLimit)
	return 0
}

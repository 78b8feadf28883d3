package lab

import (
	"context"
	"fmt"
	"net"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

const (
	backendName = "backend"
	backendPort = 8080
	// backendPath is the pod as the API servers' proxy subresource shows it.
	backendPath = "/api/v1/namespaces/default/pods/http:backend:8080/proxy"
	// pulseName is the ConfigMap that watches look at; pulseEvery how often it changes.
	pulseName  = "pulse"
	pulseEvery = 50 * time.Millisecond
	pulsePath  = "/api/v1/namespaces/default/configmaps?watch=1&fieldSelector=metadata.name%3Dpulse"
)

// Backend puts a pod on the node that API servers proxy to, once per lab; the
// first stream that needs it puts it on the last node that is on.
func (l *Lab) Backend(on *Node) {
	l.mu.Lock()
	there := l.backend
	l.backend = true
	l.mu.Unlock()
	if there {
		return
	}
	pod := on.Pod(backendName)
	pod.server(backendName, fmt.Sprintf("%s:%d", pod.IP(), backendPort)).Start()
	l.Eventually(10*time.Second, "the backend pod listens", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		c, err := on.dialContext(ctx, "tcp", net.JoinHostPort(pod.IP(), fmt.Sprint(backendPort)))
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	l.must(l.registerPod(on, pod))
}

// registerPod does what a controller manager and a kubelet do: a ServiceAccount,
// without which no Pod is admitted, and a running Pod with an address.
func (l *Lab) registerPod(on *Node, pod *Host) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	core, token := l.Kube().CoreV1(), false
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	_, err := core.ServiceAccounts("default").Create(ctx, account, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	made, err := core.Pods("default").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: pod.name},
		Spec: corev1.PodSpec{NodeName: on.name, AutomountServiceAccountToken: &token,
			Containers: []corev1.Container{{Name: pod.name, Image: "lab"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("pod %s: %w", pod.name, err)
	}
	made.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: pod.IP(), PodIPs: []corev1.PodIP{{IP: pod.IP()}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	_, err = core.Pods("default").UpdateStatus(ctx, made, metav1.UpdateOptions{})
	return err
}

// startPulse changes a ConfigMap every 50 ms through a living API server until
// the lab ends, once per lab: a watch on it is never silent for long.
func (l *Lab) startPulse() {
	l.mu.Lock()
	there := l.pulse
	l.pulse = true
	l.mu.Unlock()
	if there {
		return
	}
	maps := l.Kube().CoreV1().ConfigMaps("default")
	first := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: pulseName}}
	_, err := maps.Create(context.Background(), first, metav1.CreateOptions{})
	l.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.beat(ctx)
	}()
	l.onStop(func() { cancel(); <-done })
}

// beat goes on through outages: what fails now succeeds later, on another server.
func (l *Lab) beat(ctx context.Context) {
	cfg := l.RESTConfig()
	cfg.Timeout = time.Second
	cs, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		l.t.Logf("lab: the pulse does not start: %v", err)
		return
	}
	tick := time.NewTicker(pulseEvery)
	defer tick.Stop()
	for i := 0; ; i++ {
		patch := fmt.Appendf(nil, `{"data":{"beat":"%d"}}`, i)
		_, _ = cs.CoreV1().ConfigMaps("default").Patch(ctx, pulseName, types.MergePatchType, patch, metav1.PatchOptions{})
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

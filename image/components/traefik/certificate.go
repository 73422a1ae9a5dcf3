// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"os"

	"github.com/rs/zerolog/log"
	"github.com/traefik/traefik/v3/pkg/config/dynamic"
	"github.com/traefik/traefik/v3/pkg/safe"
	traefiktls "github.com/traefik/traefik/v3/pkg/tls"
	"github.com/traefik/traefik/v3/pkg/types"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// defaultCertificate is what clients get whose name no other certificate is for: out of a Secret, which may come later and
// change. One that is of no use, or goes, changes nothing.
type defaultCertificate struct{ namespace, name string }

func (d *defaultCertificate) Init() error { return nil }

func (d *defaultCertificate) Provide(messages chan<- dynamic.Message, pool *safe.Pool) error {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(d.namespace),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) {
			options.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, d.name).String()
		}))
	tell := func(obj any) {
		secret, found := obj.(*corev1.Secret)
		if !found {
			return
		}
		certificate, key := secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey]
		if _, err := tls.X509KeyPair(certificate, key); err != nil {
			log.Error().Err(err).Msgf("Secret %s/%s is no certificate with its key; the one before stays", d.namespace, d.name)
			return
		}
		messages <- dynamic.Message{ProviderName: "default-certificate", Configuration: store(certificate, key)}
	}
	_, err = factory.Core().V1().Secrets().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    tell,
		UpdateFunc: func(_, obj any) { tell(obj) },
	})
	if err != nil {
		return err
	}
	pool.GoCtx(func(ctx context.Context) {
		factory.Start(ctx.Done())
		<-ctx.Done()
	})
	return nil
}

func store(certificate, key []byte) *dynamic.Configuration {
	pair := &traefiktls.Certificate{CertFile: types.FileOrContent(certificate), KeyFile: types.FileOrContent(key)}
	stores := map[string]traefiktls.Store{traefiktls.DefaultTLSStoreName: {DefaultCertificate: pair}}
	return &dynamic.Configuration{TLS: &dynamic.TLSConfiguration{Stores: stores}}
}

package haproxy

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// tlsFile is a file of lb.Front.TLS as it was read.
type tlsFile struct {
	// stamp is what the kernel said of the file then.
	stamp stamp
	// sum is a digest of the content, leaf the SHA-1 of the leaf certificate as
	// "show ssl cert" prints it.
	sum  [sha256.Size]byte
	leaf string
}

// stamp tells whether a file is still the one that was read.
type stamp struct {
	size, modified int64
	inode          uint64
}

// maxSwap bounds what the runtime socket takes at once: a request of tune.bufsize
// (16 KB) with its command.
const maxSwap = 15 << 10

// loadCert reads and checks a file; former is what was read of it before, or nil.
// HAProxy takes a key that does not fit its certificate and would use neither.
func loadCert(name string, former *tlsFile) (*tlsFile, error) {
	now, err := stampOf(name)
	if err != nil {
		return nil, certErr(name, err)
	}
	if former != nil && former.stamp == now {
		return former, nil
	}
	content, err := os.ReadFile(name)
	if err != nil {
		return nil, certErr(name, err)
	}
	pair, err := tls.X509KeyPair(content, content)
	if err != nil {
		return nil, certErr(name, err)
	}
	sum := sha1.Sum(pair.Certificate[0])
	return &tlsFile{stamp: now, sum: sha256.Sum256(content), leaf: strings.ToUpper(hex.EncodeToString(sum[:]))}, nil
}

func certErr(name string, err error) error {
	return fmt.Errorf("haproxy: %s cannot be used, it must hold a certificate and its key, PEM: %w", name, err)
}

func stampOf(name string) (stamp, error) {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return stamp{}, fmt.Errorf("%s: %w", name, err)
	}
	return stamp{size: st.Size, modified: st.Mtim.Nano(), inode: st.Ino}, nil
}

// loadCerts reads the files of all blocks and leaves out frontends whose file
// cannot be used.
func (p *Proxy) loadCerts(c *compiled) map[string]*tlsFile {
	out := map[string]*tlsFile{}
	c.drop(func(b *block) error {
		name := b.f.Front.TLS
		if name == "" || out[name] != nil {
			return nil
		}
		cert, err := loadCert(name, p.certs[name])
		if err == nil {
			out[name] = cert
		}
		return err
	})
	p.certs = out
	return out
}

// errSwap says that a certificate could not be changed over the socket.
var errSwap = errors.New("haproxy: the certificate could not be changed at run time")

// swapCerts makes the worker use the files' present content. former is what it
// has, nil for not known: then it is asked.
func (p *Proxy) swapCerts(ctx context.Context, want *wish, former map[string]*tlsFile) error {
	for name, cert := range want.certs {
		if former != nil {
			if f := former[name]; f != nil && f.sum == cert.sum {
				continue
			}
		}
		if err := swapCert(ctx, want.cfg, name, cert, former == nil); err != nil {
			return err
		}
		p.log.Info("certificate changed at run time", "file", name)
	}
	return nil
}

// swapCert changes one certificate, unless asked to look first and it is there.
func swapCert(ctx context.Context, c Config, name string, cert *tlsFile, look bool) error {
	socket := c.file(fileStats)
	if look {
		if text, err := ask(ctx, socket, "show ssl cert "+name); err == nil && servesLeaf(text, cert.leaf) {
			return nil
		}
	}
	content, err := os.ReadFile(name)
	if err != nil || sha256.Sum256(content) != cert.sum {
		return fmt.Errorf("%w: %s changes just now", errSwap, name)
	}
	text := plainPEM(content)
	if len(text) > maxSwap {
		return fmt.Errorf("%w: %s has %d bytes", errSwap, name, len(text))
	}
	answer, err := exchange(ctx, answerTime, socket, "set ssl cert "+name+" <<\n"+text+"\n")
	if err == nil && strings.Contains(answer, "ransaction") {
		answer, err = ask(ctx, socket, "commit ssl cert "+name)
	}
	if err == nil && strings.Contains(answer, "Success!") {
		answer, err = ask(ctx, socket, "show ssl cert "+name)
	}
	if err == nil && servesLeaf(answer, cert.leaf) {
		return nil
	}
	// What was begun would be in the way of the next try.
	_, _ = ask(ctx, socket, "abort ssl cert "+name)
	return fmt.Errorf("%w: %s: %s", errSwap, name, errors.Join(err, errors.New(strings.TrimSpace(cut(answer)))))
}

// servesLeaf says whether an answer to "show ssl cert" is of this certificate.
func servesLeaf(text, leaf string) bool {
	for line := range strings.SplitSeq(text, "\n") {
		if v, ok := strings.CutPrefix(line, "SHA1 FingerPrint: "); ok {
			return strings.EqualFold(strings.ReplaceAll(strings.TrimSpace(v), ":", ""), leaf)
		}
	}
	return false
}

// plainPEM is the PEM blocks of a file alone: an empty line would end what is
// sent to the socket, and what follows would be run as commands.
func plainPEM(content []byte) string {
	var out bytes.Buffer
	for {
		block, rest := pem.Decode(content)
		if block == nil {
			return out.String()
		}
		block.Headers = nil
		// Writing to memory cannot fail.
		_ = pem.Encode(&out, block)
		content = rest
	}
}

package testregistry

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// BlackHole stops the registry and makes its address swallow connections, as a
// network does that drops packets: a dial is neither accepted nor refused, and
// waits for its own time-out. Start ends it.
//
// It is a listener whose queue of connections nobody takes is full, for which
// Linux drops further ones.
func (r *Registry) BlackHole() error {
	r.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.release()
	var err error
	if r.held, err = listenWithoutQueue(r.addr); err != nil {
		return fmt.Errorf("black hole: %w", err)
	}
	for range 16 {
		c, err := net.DialTimeout("tcp", r.addr, 200*time.Millisecond)
		var nerr net.Error
		switch {
		case err == nil:
			r.swallowed = append(r.swallowed, c)
		case errors.As(err, &nerr) && nerr.Timeout():
			return nil
		default:
			return fmt.Errorf("black hole: %w", err)
		}
	}
	return errors.New("black hole: connections are still accepted")
}

// listenWithoutQueue returns a socket that listens on addr with the shortest
// queue there is.
func listenWithoutQueue(addr string) (fd int, err error) {
	a, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return -1, err
	}
	// Connections of the stopped registry may keep the port busy for a moment.
	for range 100 {
		if fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0); err != nil {
			return -1, err
		}
		err = errors.Join(
			syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1),
			syscall.Bind(fd, &syscall.SockaddrInet4{Port: a.Port, Addr: [4]byte(a.IP.To4())}),
			syscall.Listen(fd, 0),
		)
		if err == nil {
			return fd, nil
		}
		_ = syscall.Close(fd)
		time.Sleep(10 * time.Millisecond)
	}
	return -1, err
}

package canary

import "syscall"

// diesWithParent ends a child when its parent is killed.
func diesWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

package canary

const keeps = true

// settle has the watcher see what has happened so far.
func settle() {
	files.mu.Lock()
	defer files.mu.Unlock()
	files.drain()
}

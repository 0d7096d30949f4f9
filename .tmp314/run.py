import subprocess, sys, signal, time, shutil
shutil.rmtree("/tmp/ev", ignore_errors=True)
run = subprocess.Popen([sys.executable, "tests/tiny_runs.py", "/tmp/ev", "--evaluate", "20"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
for _ in range(2): print(repr(run.stdout.readline()), flush=True)
t=time.time(); run.send_signal(signal.SIGINT)
print(run.communicate(), run.returncode, time.time()-t)

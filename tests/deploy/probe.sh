#!/bin/bash
# Inside the booted container: the package's whole life. A line `| what | value` is a row of the table.
set -euo pipefail

trap 'echo "line $LINENO: $BASH_COMMAND" >&2; journalctl -u "export-gateway*" --no-pager | tail -n 60 >&2' ERR
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
file=/etc/export-gateway/gateway.toml

row() { echo "| $1 | $2"; }
until_so() { # a bound, then a command
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || { echo "not in time: $*" >&2; return 1; }
        sleep 0.05
    done
}
main_pid() { systemctl show -P MainPID export-gateway; }
readyz() { curl -fsS http://127.0.0.1:9901/readyz; }
status_says() { [[ $(systemctl show -P StatusText export-gateway) == "$1"* ]]; }

ip link set lo up 2>/dev/null || true
python3 /root/boot_legacy.py &
mkdir -p /var/lib/legacy/user_data

# The package: user, units, the gateway ready when dpkg is done.
dpkg -i /root/first.deb
until_so 10 readyz
systemctl is-active --quiet export-gateway.service export-gateway.socket
[[ $(stat -c %U:%a /var/lib/export-gateway) == export-gateway:750 ]]
[[ $(ps -o user= -p "$(main_pid)") == export-g* ]]
until_so 5 status_says ready
row "dpkg -i: active, socket by systemd, status" "$(systemctl show -P StatusText export-gateway)"
row "systemd-analyze security" "$(systemd-analyze security export-gateway.service --no-pager | grep -o 'Overall exposure.*: [0-9.]*' | grep -o '[0-9.]*$')"
man -w export-gateway >/dev/null 2>&1 || [[ -e /usr/share/man/man1/export-gateway.1.gz ]]
[[ $(curl -fsS http://127.0.0.1:8080/api/echo/x) == *ok* ]]

# An edit is live, and `reload` says when it has been looked at.
pid=$(main_pid)
sed -i 's/^percent = 0 .*/percent = 10/' $file
systemctl reload export-gateway
until_so 2 bash -c 'curl -fsS http://127.0.0.1:9901/metrics | grep -q "rollout_percent{type=\"overlay\"} 10"'
[[ $(main_pid) == "$pid" ]]
sed -i 's/^percent = 10/percnt = 10/' $file
until_so 5 status_says degraded
sed -i 's/^percnt = 10/percent = 10/' $file
until_so 5 status_says ready
row "an edit, a mistake and its repair, without a restart" "as it should be"

# A later version takes over by way of dpkg, with the edited file kept.
python3 /root/boot_load.py "dpkg -i of a later version" dpkg -i /root/second.deb
[[ $(main_pid) != "$pid" && $(main_pid) != 0 ]]
grep -q '^percent = 10' $file
[[ $(dpkg-query -W -f '${Version}' export-gateway) == 0.1.0-2 ]]
systemctl is-active --quiet export-gateway.service
row "conffile kept, new main process" "yes"

python3 /root/boot_load.py "systemctl restart" systemctl restart export-gateway
systemctl is-active --quiet export-gateway.service

# A process that stands still is killed by the watchdog and started again.
mkdir -p /run/systemd/system/export-gateway.service.d
printf '[Service]\nWatchdogSec=3\n' >/run/systemd/system/export-gateway.service.d/quick.conf
systemctl daemon-reload
systemctl restart export-gateway
pid=$(main_pid)
kill -STOP "$pid"
until_so 20 bash -c "[[ \$(systemctl show -P MainPID export-gateway) != $pid ]] && curl -fsS http://127.0.0.1:9901/readyz"
row "a stopped process: the watchdog starts another" "yes"
# And one that crashes; meanwhile nobody is refused.
kill -KILL "$(main_pid)"
curl -fsS --max-time 10 http://127.0.0.1:8080/api/echo/x >/dev/null
row "kill -9: who comes meanwhile is served by the next one" "yes"

# The access log as a file, turned over by logrotate as the package has it; traces by way of the environment file.
sed -i 's|^# \[log\]|[log]|; s|^# access = |access = |' $file
echo OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:8000 >>/etc/export-gateway/environment
[[ $(stat -c %U:%a /etc/export-gateway/environment) == root:640 ]]
systemd-run --quiet --pipe --wait -p EnvironmentFile=/etc/export-gateway/environment /usr/bin/export-gateway check --config $file
systemctl restart export-gateway
until_so 10 readyz
log=/var/log/export-gateway/access.log
pid=$(main_pid)
curl -fsS http://127.0.0.1:8080/api/echo/earlier >/dev/null
until_so 3 grep -q /api/echo/earlier $log
[[ $(stat -c %U:%a $log) == export-gateway:640 && $(stat -c %U:%a ${log%/*}) == export-gateway:750 ]]
logrotate --force /etc/logrotate.d/export-gateway
grep -q /api/echo/earlier $log.1
curl -fsS http://127.0.0.1:8080/api/echo/later >/dev/null
until_so 3 grep -q /api/echo/later $log
[[ $(grep -c /api/echo/later $log.1) == 0 && $(main_pid) == "$pid" ]]
row "access log as a file: logrotate, no signal: lines kept, new file" "yes"
until_so 15 test -s /root/traces
row "traces reach a collector named in the environment file, bytes" "$(head -n 1 /root/traces)"

# A file that cannot be used: it stays down, with one reason, and is not started again and again.
cp $file /root/good.toml
sed -i 's/^percent = 10/percent = 101/' $file
systemctl restart export-gateway || true
until_so 10 bash -c '[[ $(systemctl show -P Result export-gateway) == exit-code ]]'
[[ $(systemctl show -P ExecMainStatus export-gateway) == 64 && $(systemctl show -P NRestarts export-gateway) -le 1 ]]
journalctl -u export-gateway --no-pager | grep -q '101 is not between 0 and 100'
cp /root/good.toml $file
systemctl reset-failed export-gateway export-gateway.socket || true
systemctl restart export-gateway.socket export-gateway.service
until_so 10 readyz
row "a bad file: exit code 64, the reason in the journal" "yes"

began=$SECONDS
systemctl stop export-gateway.socket export-gateway.service
[[ $(systemctl show -P ExecMainStatus export-gateway) == 0 && $(systemctl show -P Result export-gateway) == success ]]
row "systemctl stop: exit code 0, within" "$((SECONDS - began + 1)) s"

dpkg -r export-gateway
[[ -e $file && -e /var/lib/export-gateway/jobs.db && -e $log ]]
dpkg -P export-gateway
for path in /etc/export-gateway /etc/logrotate.d/export-gateway /var/lib/export-gateway /var/log/export-gateway /usr/share/export-gateway; do
    [[ ! -e $path ]] || { echo "$path is still there" >&2; false; }
done
row "dpkg -r keeps file, jobs and log, -P takes them" "yes"
echo "the end"

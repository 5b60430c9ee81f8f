# Sent to a host by reach.py: what Salt needs there. $1 is the thin's folder. It, or what is there of its path, takes a
# file; sftp is asked for where the thin is yet to be sent.
echo goldenpath-look
at=$1
while [ ! -e "$at" ] && [ ! -L "$at" ] && [ "$at" != / ]; do at=$(dirname "$at"); done
said=$( (umask 077; cp /etc/passwd "$at/.goldenpath-$$") 2>&1) || echo "write $at: $said"
rm -f "$at/.goldenpath-$$"
if command -v python3 >/dev/null 2>&1; then
  echo "python $(python3 --version 2>&1)"
else
  echo "python none"
fi
if [ ! -e "$1/version" ] && sshd=$(sshd -T 2>/dev/null); then
  echo "$sshd" | grep -qi '^subsystem sftp ' || echo "sftp none"
fi
echo goldenpath-seen

# SPDX-License-Identifier: Apache-2.0
"""How what a session over SSH started on Windows is ended: a script for PowerShell 5.1. Pure.

The cmd.exe that the server started carries the session's mark in its command line. The script ends
it with its descendants: Ctrl+C, Ctrl+Break, then Stop-Process. A console event reaches whoever
shares the console, so it is sent only where nobody else does; a step that cannot be done says that
it reached nobody, and the next one follows. Nobody has run it on a real Windows yet.

Source: learn.microsoft.com, Console Functions (AttachConsole, GenerateConsoleCtrlEvent); the
server's side in PowerShell/openssh-portable, contrib/win32/win32compat/w32-doexec.c.
"""

import base64

from ci.runners.stop import Grace

# How long PowerShell may take to start, and to ask for the processes.
START_S = 20.0
_CALL = "powershell.exe -NoProfile -NonInteractive -EncodedCommand "


def line(mark: str, grace: Grace) -> str:
    """The line that ends all whose mark begins so; see `ci.runners.stop.read` for what it says."""
    return _CALL + base64.b64encode(script(mark, grace).encode("utf-16-le")).decode()


def script(mark: str, grace: Grace) -> str:
    """The script; its first line holds all that changes.

    Status 0 when all is gone, 1 when something is left, which stands on standard output.
    """
    steps = ",".join(f"'{s.name[3:]} {round(seconds * 1000)}'" for s, seconds in grace.steps)
    return f"$mark='{mark}';$steps=@({steps})\n{_SCRIPT}"


_SCRIPT = r"""
$ErrorActionPreference='Stop';$ProgressPreference='SilentlyContinue'
$out=[Console]::OpenStandardOutput()
function Say($t){$b=[Text.Encoding]::UTF8.GetBytes("$t`n");$out.Write($b,0,$b.Length)}
$seen=@{}
function Ours{
$all=@(Get-CimInstance Win32_Process);$in=@{}
$all=@($all|?{$_.CreationDate -and $_.ProcessId -ne $PID})
foreach($p in $all){if(($seen.ContainsKey($p.ProcessId) -and
$seen[$p.ProcessId] -eq $p.CreationDate) -or
($p.Name -eq 'cmd.exe' -and "$($p.CommandLine)".Contains($mark))){$in[$p.ProcessId]=$p}}
do{$n=$in.Count;foreach($p in $all){$up=$in[$p.ParentProcessId]
if($up -and $p.Name -ne 'conhost.exe' -and $p.CreationDate -ge $up.CreationDate){
$in[$p.ProcessId]=$p}}}while($in.Count -gt $n)
foreach($p in $in.Values){$seen[$p.ProcessId]=$p.CreationDate;$p}}
$left=@(Ours);if(!$left){exit 0}
try{Add-Type @'
using System;using System.Runtime.InteropServices;public static class Hv{
delegate bool H(uint e);static H h=e=>true;
[DllImport("kernel32")]static extern bool FreeConsole();
[DllImport("kernel32")]static extern bool AttachConsole(uint p);
[DllImport("kernel32")]static extern uint GetConsoleProcessList(uint[] l,uint n);
[DllImport("kernel32")]static extern bool SetConsoleCtrlHandler(H h,bool add);
[DllImport("kernel32")]static extern bool GenerateConsoleCtrlEvent(uint e,uint group);
public static bool Send(uint e,uint to,uint[] ours){FreeConsole();
if(!AttachConsole(to))return false;
var l=new uint[512];uint n=GetConsoleProcessList(l,512);if(n==0||n>512)return false;
for(uint i=0;i<n;i++)if(Array.IndexOf(ours,l[i])<0)return false;
return SetConsoleCtrlHandler(h,true)&&GenerateConsoleCtrlEvent(e,0);}}
'@}catch{}
foreach($step in $steps){if(!$left){break}
$name,$ms=$step -split ' ';$n=$left.Count;$sent=$name -eq 'KILL'
$t=[Diagnostics.Stopwatch]::StartNew()
if(!$sent){$ids=[uint32[]](@($left|%{$_.ProcessId})+$PID)
foreach($p in $left|?{$_.Name -eq 'cmd.exe' -and "$($_.CommandLine)".Contains($mark)}){
try{if([Hv]::Send([int]($name -ne 'INT'),$p.ProcessId,$ids)){$sent=$true}}catch{}}}
if(!$sent){Say "=$name 0 $n 0";continue}
do{if($name -eq 'KILL'){$left|%{Stop-Process -Id $_.ProcessId -Force -ErrorAction Ignore}}
Start-Sleep -Milliseconds 100;$left=@(Ours)
}while($left -and $t.ElapsedMilliseconds -lt [int]$ms)
Say "=$name $n $($left.Count) $([int]($t.ElapsedMilliseconds/10))"}
foreach($p in $left){Say "$($p.ProcessId) ($($p.Name))"}
exit [int]($left.Count -gt 0)
""".strip()

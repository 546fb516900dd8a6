import { unexpected } from "../../core/error.ts";

/** What a service is made of, whoever runs it. */
export type ServicePlan = {
  readonly name: string;
  /** For the whole machine, not for one user. */
  readonly system: boolean;
  /** The command line: program and arguments. */
  readonly command: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  /** Where launchd lets the log go; systemd has its journal. */
  readonly logPath: string;
};

/** Stands in every file of ours, so that others' are not overwritten. */
export const mark = "Made by psionic service";

/** Refuses names that would be another path, or that a service manager would read otherwise. */
export function checkName(name: string): void {
  if (/^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/.test(name) && !name.includes("..")) return;
  throw unexpected("invalid_argument", "--name", "letters, digits, dots and dashes", JSON.stringify(name));
}

/**
 * What needs no mounts: those work in a user's own manager too. Memory that is written and executed must stay allowed, for
 * JavaScript is compiled while it runs.
 */
const hardening = [
  "NoNewPrivileges=yes",
  "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
  "RestrictNamespaces=yes",
  "RestrictRealtime=yes",
  "RestrictSUIDSGID=yes",
  "LockPersonality=yes",
  "SystemCallArchitectures=native",
  "SystemCallFilter=@system-service",
  "UMask=0077",
];

/** Of a service of the machine: a user of its own, nothing writable but its own folders. Devices stay, for GPUs. */
const systemHardening = [
  "DynamicUser=yes",
  "StateDirectory=%NAME%",
  "CacheDirectory=%NAME%",
  "ProtectSystem=strict",
  "ProtectHome=read-only",
  "PrivateTmp=yes",
  "ProtectKernelTunables=yes",
  "ProtectKernelModules=yes",
  "ProtectKernelLogs=yes",
  "ProtectControlGroups=yes",
  "ProtectClock=yes",
  "ProtectHostname=yes",
  "ProtectProc=invisible",
  "CapabilityBoundingSet=",
  "AmbientCapabilities=",
];

/** A unit of systemd, for a user's manager or the machine's. */
export function systemdUnit({ name, system, command, environment }: ServicePlan): string {
  const variables = Object.entries(environment).map(
    ([key, value]) => `Environment=${quoted(`${key}=${value}`)}`,
  );
  const own = system ? systemHardening.map((line) => line.replace("%NAME%", name)) : [];
  return [
    `# ${mark}; it writes this file anew when it is installed again.`,
    "[Unit]",
    "Description=psionic, a server of language models",
    ...(system ? ["Wants=network-online.target", "After=network-online.target"] : []),
    "StartLimitIntervalSec=300",
    "StartLimitBurst=5",
    "",
    "[Service]",
    "Type=exec",
    `ExecStart=${command.map(quoted).join(" ")}`,
    ...variables,
    "Restart=on-failure",
    "RestartSec=5",
    // running answers may end
    "TimeoutStopSec=120",
    "LimitNOFILE=65536",
    "",
    ...own,
    ...hardening,
    "",
    "[Install]",
    `WantedBy=${system ? "multi-user.target" : "default.target"}`,
    "",
  ].join("\n");
}

/** A word of a unit file: quotes, specifiers and variables are taken literally. */
function quoted(word: string): string {
  refuseControls(word);
  const literal = word
    .replaceAll("\\", "\\\\")
    .replaceAll('"', '\\"')
    .replaceAll("%", "%%")
    .replaceAll("$", "$$$$");
  return /^[\w/.:=@%+,-]+$/.test(literal) ? literal : `"${literal}"`;
}

function refuseControls(text: string): void {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
  if (!/[\u0000-\u001f\u007f]/.test(text)) return;
  throw unexpected("invalid_argument", "service", "text without line breaks", JSON.stringify(text));
}

/** A property list of launchd, for a user's agents or the machine's daemons. */
export function launchdPlist({ name, command, environment, logPath }: ServicePlan): string {
  const text = (value: string) => `<string>${escaped(value)}</string>`;
  const key = (value: string) => `<key>${escaped(value)}</key>`;
  const variables = Object.entries(environment).map(([k, value]) => `    ${key(k)}${text(value)}`);
  return [
    '<?xml version="1.0" encoding="UTF-8"?>',
    '<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">',
    `<!-- ${mark}; it writes this file anew when it is installed again. -->`,
    '<plist version="1.0">',
    "<dict>",
    `  ${key("Label")}${text(name)}`,
    `  ${key("ProgramArguments")}<array>`,
    ...command.map((word) => `    ${text(word)}`),
    "  </array>",
    ...(variables.length > 0 ? [`  ${key("EnvironmentVariables")}<dict>`, ...variables, "  </dict>"] : []),
    `  ${key("RunAtLoad")}<true/>`,
    `  ${key("KeepAlive")}<dict>${key("SuccessfulExit")}<false/></dict>`,
    `  ${key("ThrottleInterval")}<integer>5</integer>`,
    `  ${key("ExitTimeOut")}<integer>120</integer>`,
    `  ${key("Umask")}<integer>63</integer>`,
    `  ${key("ProcessType")}${text("Interactive")}`,
    `  ${key("StandardOutPath")}${text(logPath)}`,
    `  ${key("StandardErrorPath")}${text(logPath)}`,
    "</dict>",
    "</plist>",
    "",
  ].join("\n");
}

function escaped(text: string): string {
  refuseControls(text);
  return text
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;");
}

// Environment variables that are for one process only: reading them removes them.

/** Reads variables and removes them, so that a child does not take them for its own. */
export function takeVariables<Name extends string>(
  env: NodeJS.ProcessEnv,
  names: readonly Name[],
): Readonly<Record<Name, string | undefined>> {
  const taken = Object.fromEntries(names.map((name) => [name, env[name]]));
  for (const name of names) Reflect.deleteProperty(env, name);
  return taken as Record<Name, string | undefined>;
}

/** @returns undefined unless it is decimal digits and at most `most` */
export function parseCount(text: string | undefined, most: number): number | undefined {
  const count = Number(text);
  return text !== undefined && /^\d+$/.test(text) && count <= most ? count : undefined;
}
